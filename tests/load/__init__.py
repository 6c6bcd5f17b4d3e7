"""Measurements that no test asserts, because they are of the machine as much as of the code."""
