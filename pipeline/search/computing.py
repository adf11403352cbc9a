"""How sums are computed: with torch's switches set so that they come out the same, and with one error where they do not fit memory."""

from contextlib import contextmanager

import torch

from pipeline.config.errors import Failed


def compute_exactly(threads: int) -> None:
    """Set torch's switches so that sums come out the same every time, and in full float32, in which picks are compared."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def within_memory(place: str, settings: str):
    """Raises Failed naming the place and the settings to lower when what is inside does not fit memory."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise Failed(f"{place}: a block does not fit memory ({reason}); lower {settings}") from error
