from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared():
    """The folder `shared/` beside the repository: reference numbers and real images."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: reference numbers and benchmark images are not here")
    return folder
