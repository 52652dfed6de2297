"""What people and machines read of a result.

`report` writes a page for a browser, and needs jinja2; what is printed needs rich.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedl_deploy.report.page import report

__all__ = ["report"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """The function that writes a page, imported when it is first asked for."""
        if name != "report":
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        from embedl_deploy.report.page import report

        return report
