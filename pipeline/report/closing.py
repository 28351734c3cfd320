"""The report that a run leaves behind by itself, finished or failed."""

from pipeline.config import RunConfig
from pipeline.state import RunFolder
from pipeline.terminal import errors, say


def leave_report(config: RunConfig, folder: RunFolder) -> None:
    """Write the run's report and say where; or say why there is none: that is no failure of the run.

    Where no stage was started there is nothing to look at.
    """
    if not folder.has_begun():
        return
    try:
        from pipeline.report.run_page import write

        written = write(config, folder)
    except Exception as error:  # whatever it is, the run itself has ended as it did
        say(
            f"the report could not be written ({type(error).__name__}: {error}); "
            f"once that is mended: strop report {folder.root}",
            on=errors,
            style="yellow",
        )
        return
    say(f"to look at: {written}")
