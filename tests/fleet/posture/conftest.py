from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _agreement() -> ModuleType:
    path = Path(__file__).with_name("agreement.py")
    spec = importlib.util.spec_from_file_location("posture_agreement", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["posture_agreement"] = module
    spec.loader.exec_module(module)
    return module


AGREEMENT = _agreement()


@pytest.fixture(scope="session")
def recorded() -> ModuleType:
    """The recorded containers, images and host, and the table of what is expected of them."""
    return AGREEMENT
