"""A finished search that takes more episodes keeps its result until the new one takes its place."""

import json

import pytest
from moments import moments_of

from ciess_ray.result import SearchResult
from ciess_ray.searches.driver import resume, search
from envs.errors import ResultError

SETTINGS = {
    "num_episodes": 1,
    "num_warmup_steps": 1,
    "num_candidates": 1,
    "checkpoint_interval_s": 0.0,
}

#: Of no other test: what it caches must not spare others their fits.
SEED = 7


class Killed(BaseException):
    """Stands for what no handler of the search's own expects."""


def stop_at(phase, error=Killed):
    def watch(progress):
        if progress.phase == phase and progress.is_step:
            raise error

    return watch


def content_of(folder):
    """What a reader of the folder finds, after the package has read it once."""
    result = SearchResult.load(folder)
    for one in (result, *result.looser()):
        one.recommender()
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        str(file): (folder / file).read_bytes()
        for file in files
        # What a killed process was about to write lies in a hidden folder.
        if not file.parts[0].startswith((".", "checkpoints"))
    }


def raw_content_of(folder):
    """All that lies there, read or not, but for checkpoints."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(file): (folder / file).read_bytes() for file in files if file.parts[0] != "checkpoints"}


def figures_of(result):
    return [[one.summary[name] for name in ("methods", "retrained", "num_steps")] for one in result]


def test_killed_at_any_moment_it_is_the_old_one_or_the_new_one(make_config, tmp_path):
    config = make_config(tmp_path / "out", seed=SEED, budget=["20%", "50%"], search=SETTINGS)
    search(config)
    old = content_of(config.output)
    with moments_of(config.output, tmp_path / "moments") as moments:
        result = resume(config.output, more_episodes=1)
    new = content_of(config.output)
    assert not list(config.output.glob(".*")) and new.keys() == old.keys()
    assert "at-50-percent/table.safetensors" in new

    # Most changes are of its checkpoints, which a reader does not look at.
    found, last = [], None
    for moment in moments:
        raw = raw_content_of(moment)
        found.append(found[-1] if raw == last else content_of(moment))
        last = raw
    assert len(found) > 50 and [one for one in found if one not in (old, new)] == []
    is_new = [one == new for one in found]
    # From one moment on it is the new one, which came in piece by piece.
    assert is_new == sorted(is_new) and 20 < is_new.count(True) < len(found)
    first = is_new.index(True)
    whole = figures_of([result, *result.looser()])
    for moment in (moments[first // 2], moments[first - 1]):
        again = resume(moment)
        assert figures_of([again, *again.looser()]) == whole
    for moment in (moments[first], moments[-1]):
        with pytest.raises(ResultError, match="this search is finished"):
            resume(moment)


@pytest.mark.parametrize("error", [KeyboardInterrupt, Killed])
def test_broken_off_it_is_still_finished_and_goes_on_by_itself(make_config, tmp_path, error):
    config = make_config(tmp_path / "out", seed=SEED, search=SETTINGS)
    search(config)
    old = content_of(config.output)
    for phase in ("search", "retraining"):
        with pytest.raises(error):
            # Once begun, how many there are to be is known.
            resume(config.output, more_episodes=phase == "search", on_progress=stop_at(phase, error))
        assert content_of(config.output) == old
        begun = json.loads((config.output / "checkpoints/extension/result.json").read_text())
        assert begun["status"] == ("interrupted" if error is KeyboardInterrupt else "failed")
    result = resume(config.output)
    assert result.summary["status"] == "finished" and result.summary["num_steps"] == 6
    assert not (config.output / "checkpoints/extension").exists()


def test_a_search_anew_forgets_the_longer_one(make_config, tmp_path):
    config = make_config(tmp_path / "out", seed=SEED, search=SETTINGS)
    search(config)
    with pytest.raises(Killed):
        resume(config.output, more_episodes=1, on_progress=stop_at("search"))
    search(config, overwrite=True)
    with pytest.raises(ResultError, match="this search is finished"):
        resume(config.output)
