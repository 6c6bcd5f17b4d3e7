"""What happened, written down by the database itself: marks, and every move of a run and of an item, in one order.

An item's events are made while its row is locked, so their numbers are in the order of their commits.
"""

SCHEMA = """
CREATE SEQUENCE happened;
CREATE TABLE effects (
    serial bigint PRIMARY KEY DEFAULT nextval('happened'), run_id uuid NOT NULL, item_key text NOT NULL,
    lease_token bigint NOT NULL, leased_by uuid, item_state text NOT NULL, n int NOT NULL, worker_pid int NOT NULL,
    backend_pid int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON effects (run_id);
CREATE TABLE run_moves (
    serial bigint PRIMARY KEY DEFAULT nextval('happened'), run_id uuid NOT NULL, was text, becomes text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE item_moves (
    serial bigint PRIMARY KEY DEFAULT nextval('happened'), run_id uuid NOT NULL, item_key text NOT NULL,
    was text NOT NULL, becomes text NOT NULL, token_was bigint NOT NULL, token bigint NOT NULL, leased_by uuid,
    lease_until_was timestamptz, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE full_tables (name text PRIMARY KEY, until timestamptz NOT NULL);

CREATE FUNCTION note_run_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO run_moves (run_id, was, becomes)
    VALUES (NEW.id, CASE WHEN TG_OP = 'UPDATE' THEN OLD.status END, NEW.status);
    IF TG_OP = 'INSERT' THEN PERFORM pg_notify('started', NEW.id::text); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_run_start AFTER INSERT ON operation_runs FOR EACH ROW EXECUTE FUNCTION note_run_move();
CREATE TRIGGER note_run_move AFTER UPDATE ON operation_runs FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.completed_at IS DISTINCT FROM NEW.completed_at)
    EXECUTE FUNCTION note_run_move();

CREATE FUNCTION note_item_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO item_moves (run_id, item_key, was, becomes, token_was, token, leased_by, lease_until_was)
    VALUES (NEW.run_id, NEW.item_key, OLD.state, NEW.state, OLD.lease_token, NEW.lease_token, NEW.leased_by,
            OLD.lease_until);
    RETURN NULL;
END $$;
CREATE TRIGGER note_item_move AFTER UPDATE ON operation_run_items FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.lease_token IS DISTINCT FROM NEW.lease_token)
    EXECUTE FUNCTION note_item_move();

CREATE FUNCTION refuse_when_full() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM full_tables WHERE name = TG_TABLE_NAME AND until > clock_timestamp()) THEN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER full_items BEFORE INSERT OR UPDATE ON operation_run_items EXECUTE FUNCTION refuse_when_full();
CREATE TRIGGER full_effects BEFORE INSERT ON effects EXECUTE FUNCTION refuse_when_full();
CREATE TRIGGER full_audit BEFORE INSERT ON audit_events EXECUTE FUNCTION refuse_when_full();
"""
