"""The command that prepares data from archives, as a process."""

from jaxmnist.datasets import _SAMPLE_DIR


def test_a_users_mistakes(command, tmp_path):
    for kwargs, sentence in [
        ({"source_dir": tmp_path / "none"}, "there is no such folder"),
        ({"source_dir": tmp_path}, "holds neither train-images-idx3-ubyte.gz nor"),
        ({"source_dir": _SAMPLE_DIR}, "holds 4000 examples where mnist's train split has 60000"),
    ]:
        run = command("prepare_data", data_dir=tmp_path / "data", **kwargs)
        assert run.wait() == 1
        assert run.err.startswith("error: ")
        assert sentence in run.err
    assert not (tmp_path / "data").exists()


def test_mnist_from_its_archives(command, source_dir, prepared_mnist, tmp_path):
    run = command("prepare_data", source_dir=source_dir, data_dir=prepared_mnist)
    assert run.wait() == 0, run.err
    assert run.out.startswith(f"mnist was already prepared in {prepared_mnist}/mnist/3.0.1\n")
    run = command(
        "main",
        workdir=tmp_path / "run",
        **{
            "config.data_dir": prepared_mnist,
            "config.num_steps": 1,
            "config.eval_split": "test[:100]",
        },
    )
    assert run.wait() == 0, run.err
    assert run.out.startswith("mnist: 60,000 training and 100 evaluation examples")
