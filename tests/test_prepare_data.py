"""The command that prepares data from archives."""

from jaxmnist import prepare_data
from jaxmnist.data.datasets import _SAMPLE_DIR


def test_a_users_mistakes(tmp_path, capsys):
    for source_dir, sentence in [
        (tmp_path / "none", "there is no such folder"),
        (tmp_path, "holds neither train-images-idx3-ubyte.gz nor"),
        (_SAMPLE_DIR, "holds 4000 examples where mnist's train split has 60000"),
    ]:
        args = [f"--data_dir={tmp_path}/data", f"--source_dir={source_dir}"]
        assert prepare_data.main(args) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert sentence in err
    assert not (tmp_path / "data").exists()


def test_mnist_from_its_archives(here, source_dir, prepared_mnist, tmp_path, capsys):
    args = [f"--source_dir={source_dir}", f"--data_dir={prepared_mnist}"]
    assert prepare_data.main(args) == 0
    already = f"mnist was already prepared in {prepared_mnist}/mnist/3.0.1"
    assert capsys.readouterr().out.startswith(f"{already}\n")
    flags = {
        "config.data_dir": prepared_mnist,
        "config.num_steps": 1,
        "config.eval_split": "test[:100]",
    }
    assert here(workdir=tmp_path / "run", **flags) == 0
    said = capsys.readouterr()
    assert said.out.startswith("mnist: 60,000 training and 100 evaluation examples")
