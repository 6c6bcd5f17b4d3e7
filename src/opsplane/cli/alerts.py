"""opsplane alerts: who is told when something goes wrong."""

import typer

from opsplane.cli import alert_additions, alert_deliveries, alert_destinations, alert_rules

app = typer.Typer(no_args_is_help=True, help="Who is told when something goes wrong.")
app.add_typer(alert_destinations.app, name="destinations")
app.add_typer(alert_rules.app, name="rules")
app.add_typer(alert_deliveries.app, name="deliveries")
alert_destinations.app.add_typer(alert_additions.app, name="add")
