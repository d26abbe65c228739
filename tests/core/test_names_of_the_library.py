"""`import saescope as ss`."""

import pkgutil

import saescope as ss


def test_no_public_name_is_also_a_module_which_would_take_its_place_once_imported() -> None:
    assert not set(ss.__all__) & {module.name for module in pkgutil.iter_modules(ss.__path__)}
