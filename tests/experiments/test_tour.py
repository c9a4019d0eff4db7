"""The notebook: executed once, from top to bottom, and stored without what could go stale."""

from pathlib import Path

import nbclient
import nbformat
import pytest

TOUR = Path(__file__).parents[2] / "experiments/tour.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(TOUR, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_stored_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert not cell.outputs, cell.source
        assert cell.execution_count is None, cell.source
        assert not cell.metadata, cell.source
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_it_runs_without_an_error_or_a_warning(notebook, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs the extra report")
    monkeypatch.setenv("PYTHONPATH", str(TOUR.parents[1]))  # This checkout, whatever is installed.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    before = sorted(TOUR.parent.rglob("*"))
    where = {"metadata": {"path": str(TOUR.parent)}}
    # Raises if a cell does.
    nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"] == []
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 3
    assert sorted(TOUR.parent.rglob("*")) == before
