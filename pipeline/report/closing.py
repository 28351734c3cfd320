"""The report that a run leaves behind by itself, finished or failed."""

from pipeline.config import RunConfig
from pipeline.state import RunFolder
from pipeline.terminal import console, errors


def leave_report(config: RunConfig, folder: RunFolder) -> None:
    """Write the run's report and say where; or say why there is none: that is no failure of the run."""
    try:
        from pipeline.report.run_page import write

        written = write(config, folder)
    except Exception as error:  # whatever it is, the run itself has ended as it did
        errors.print(
            f"the report could not be written ({type(error).__name__}: {error}); "
            f"once that is mended: strop report {folder.root}",
            style="yellow",
            highlight=False,
            markup=False,
        )
        return
    console.print(f"to look at: {written}", highlight=False, markup=False, soft_wrap=True)
