"""Results as one page for a browser: a single file that needs no network."""

from embedl_deploy.report.page.write import report

__all__ = ["report"]
