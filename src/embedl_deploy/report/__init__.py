"""What people and machines read of a result.

`report` writes a page for a browser; `tables` needs rich, `summary` torch alone.
"""

from embedl_deploy.report.page import report

__all__ = ["report"]
