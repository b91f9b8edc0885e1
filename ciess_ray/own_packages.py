"""Whether Python finds the package ``envs`` that belongs to this one: others have that name too."""

import importlib.util
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

#: What only our own ``envs/__init__.py`` says.
_MARK = "CIESS/EmbeddingSize-v0"


def refuse_foreign_envs(folders: Sequence[str] | None = None) -> None:
    """Refuse a package ``envs`` that hides ours. Nothing is imported.

    Args:
        folders: Where to look; None for wherever Python does. In given folders there may be none.

    Raises:
        ImportError: Naming what hides ours, and the way out.
    """
    root = Path(__file__).resolve().parents[1]
    try:
        spec = importlib.util.find_spec("envs") if folders is None else PathFinder.find_spec("envs", folders)
    except ValueError:
        # A module made by hand says nothing of itself.
        spec = None
    if folders is not None and (spec is None or spec.origin is None):
        # A folder without __init__.py gives way to a package.
        return
    ours = root / "envs" / "__init__.py"
    origin = None if spec is None or spec.origin is None else Path(spec.origin)
    if origin is None or origin.resolve() != ours:
        # Of a folder without __init__.py, which hides what is installed to be edited, the folder is known.
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        raise ImportError(
            f"ciess_ray needs its own package 'envs', in {root}, and what Python finds by that name is "
            f"{origin or next(iter(places), 'something else')}. Start in another folder or rename that one; "
            "take it off PYTHONPATH; or, where pip installed it, give ciess-ray an environment of its own.",
            name="envs",
        )
    if _MARK not in ours.read_text(encoding="utf-8", errors="replace"):
        raise ImportError(
            f"{ours}: another distribution has written its package 'envs' over that of ciess-ray. 'pip "
            "uninstall envs' and 'pip install --force-reinstall --no-deps ciess-ray' part them; or give "
            "ciess-ray an environment of its own.",
            name="envs",
        )
