"""SARIF 2.1.0 files of any size, read as a stream of plain findings.

A file is read twice: once to check the JSON and to learn the rules, once to stream the results,
so the order of its properties does not matter. Only the properties that a shape names are ever built;
everything else is skipped as it passes, and each thing that is kept has a limit.
"""

from opsplane.findings.sarif.reader import SarifReader, read
from opsplane.findings.sarif.results import SarifFinding

__all__ = ["SarifFinding", "SarifReader", "read"]
