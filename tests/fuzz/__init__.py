"""Both planes under generated requests; `make fuzz`, and a slice of it in tests/integration/test_contract.py."""
