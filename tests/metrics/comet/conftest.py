"""The tiny checkpoints that all tests of COMET score with."""

import pytest


@pytest.fixture(scope="session")
def comet_models(tmp_path_factory):
    """Folder of the tiny model of each kind (support.comet.KINDS) and, under "encoder", of their encoder."""
    from support.comet import make_all_kinds

    return make_all_kinds(tmp_path_factory.mktemp("comet"))
