"""What tests share: the bundled sample, small configs, and the commands as real processes."""

import errno
import functools
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import jax
import numpy as np
import optax
import pytest
import requests
from tensorboardX.proto import event_pb2

import jaxmnist
from jaxmnist import main, train
from jaxmnist.config import get_config
from jaxmnist.data import datasets
from jaxmnist.data.input_pipeline import put_on_device, to_float
from jaxmnist.devices.sharding import Layout
from jaxmnist.record.journal import Journal, Session
from jaxmnist.record.screen import Screen
from jaxmnist.record.workdir import Run, Workdir
from jaxmnist.train_step import create_train_state

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background jobs ignore it, and so would the processes that tests stop by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

SAMPLE_DIR = Path(datasets.__file__).parent / datasets.SAMPLE
# test_sharding is the very first: it makes JAX's devices anew, and arrays on the old ones, which
# session fixtures may hold, cannot be used after that.
LONGEST = [
    "test_sharding",
    "test_distributed",
    "test_main",
    "test_train",
    "test_seeds",
    "test_sweep",
]

# Tests in which Flax or optax computes with arrays of two types.
MIXED_TYPES = {
    # A layer's parameters are float32 where its input is float64.
    "test_gradient_agrees_with_finite_differences",
    "test_the_whole_network_has_the_plain_one_s_gradients",
    # Some optimizers count in int32, or keep averages of gradients in bfloat16.
    "test_every_optimizer_of_optax_works_or_is_refused",
    "test_every_optimizer_is_wrapped_or_refused_in_a_sentence",
    "test_every_optimizer_warms_up_or_is_refused",
    "test_what_divides_by_the_first_learning_rate_is_told",
    "test_prodigy_with_its_safeguard_warms_up",
    "test_arguments_by_which_prodigy_divides_by_0",
    "test_lookahead_is_evaluated_with_the_slow_parameters",
    "test_every_command_runs",
    "test_a_run_with_a_curriculum_and_lookahead_that_was_killed_ends_with_the_same_bits",
}


def pytest_collection_modifyitems(items):
    """The longest files come first, so that in the end no worker is left alone with one."""
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Fills a folder once, for all of pytest-xdist's workers."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def fill(name, function):
        folder, done = base / f"once-{name}", base / f"once-{name}.done"
        with filelock.FileLock(base / f"once-{name}.lock"):
            if not done.exists():
                folder.mkdir(exist_ok=True)
                function(folder)
                done.touch()
        return folder

    return fill


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(once):
    """What one test or its processes have compiled the others load: half a minute less."""
    folder = str(once("compiled", lambda folder: None))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture(scope="session", autouse=True)
def _strict_types():
    """An operation on arrays of two types or ranks is an error; of two types not in optax."""

    def allowed(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            with jax.numpy_dtype_promotion("standard"):
                found = function(*args, **kwargs)
            return allowed(found) if callable(found) else found

        return call

    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    with pytest.MonkeyPatch.context() as patch:
        # These compute with a float and the int32 number of steps.
        schedules = [
            name for name in dir(optax.schedules) if re.fullmatch(r"[a-z]\w*_schedule", name)
        ]
        places = [(module, name) for name in schedules for module in (optax, optax.schedules)]
        for module, name in (*places, (optax.tree, "bias_correction")):
            patch.setattr(module, name, allowed(getattr(module, name)))
        yield


@pytest.fixture(autouse=True)
def _mixed_types(request):
    """Allows what `_strict_types` does not in the tests of MIXED_TYPES."""
    if getattr(request.node, "originalname", None) not in MIXED_TYPES:
        yield
        return
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def config(tmp_path):
    """A short run on the sample, with small batches, and one program for any number of steps."""
    config = get_config()
    config.dataset = "mnist_sample"
    config.data_dir = str(tmp_path / "data")
    config.train_split = "train[:400]"
    config.eval_split = "test[:200]"
    config.batch_size = 20
    config.num_steps = 6
    config.schedule = "constant"
    config.log_every = 2
    config.eval_every = 4
    config.checkpoint_every = 2
    return config


@pytest.fixture
def state(config):
    """The state of the short run before its first step."""
    return create_train_state(config)


@pytest.fixture
def run(config, tmp_path):
    """The short run and its workdir."""
    (tmp_path / "run").mkdir()
    return Run(config, Workdir(tmp_path / "run"))


@pytest.fixture
def journal(run, layout, state):
    """The journal of the short run, opened."""
    with Journal([run], layout, Session(Screen(quiet=True))) as opened:
        opened.resume(state, datasets.describe(run.config))
        yield opened


@pytest.fixture
def finished(once, config, tmp_path):
    """A workdir of a finished run of `config`, of one's own."""
    config.data_dir = "not needed"
    shared = once("finished", lambda folder: train.train_and_evaluate(config, folder))
    return shutil.copytree(shared, tmp_path / "finished")


@pytest.fixture(scope="session")
def sample():
    """The sample's train and test splits on the device."""
    splits = datasets.load("mnist_sample", ["train", "test"]).splits
    layout = Layout.create()
    return [put_on_device(split.images, split.labels, layout) for split in splits]


@pytest.fixture(scope="session")
def trained(once, tmp_path_factory):
    """The workdir of a run on the sample that learned most of it: about 94 % of its test split."""
    config = get_config()
    config.dataset = "mnist_sample"
    config.num_steps = 120
    config.log_every = 20
    config.eval_every = 60
    shared = once("trained", lambda folder: train.train_and_evaluate(config, folder))
    # Tests leave files in it.
    return shutil.copytree(shared, tmp_path_factory.mktemp("own") / "trained")


@pytest.fixture(scope="session")
def model(trained):
    """The trained model."""
    return jaxmnist.load(trained)


@pytest.fixture(scope="session")
def test_split():
    """The sample's test split in host memory."""
    return datasets.load("mnist_sample", ["test"]).splits[0]


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium, headless."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1000,800",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


def read_events(folder):
    """Every (step, tensorboardX's Summary.Value) in the event files of a folder."""
    found = []
    for path in sorted(folder.glob("events*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            found += [(event.step, value) for value in event.summary.value]
            data = data[12 + length + 4 :]
    return found


def content(folder):
    """Every file below a folder, with its bytes."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture
def batch(sample):
    """A batch of 20 with all ten digits."""
    train = sample[0]
    take = np.arange(0, 4000, 200)
    return {"image": to_float(train.images[take]), "label": train.labels[take]}


@pytest.fixture(scope="session")
def layout():
    """All devices that a test sees, for one run."""
    return Layout.create()


@pytest.fixture
def key():
    return jax.random.key(7)


@pytest.fixture(scope="session")
def source_dir():
    """The folder with the original archives."""
    folder = os.environ.get("JAXMNIST_SOURCE_DIR")
    if not folder:
        pytest.skip("needs the MNIST archives: set JAXMNIST_SOURCE_DIR to their folder")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def prepared_mnist(source_dir, once):
    """A data_dir in which the whole of MNIST is prepared, by the command."""

    def prepare(data_dir):
        run = Command("prepare_data", source_dir=source_dir, data_dir=data_dir)
        assert run.wait() == 0, run.err
        prepared, told = run.out.splitlines()
        assert prepared == f"mnist is prepared in {data_dir}/mnist/3.0.1"
        assert told == f"runs find it with --config.data_dir={data_dir}"

    return once("mnist", prepare)


@pytest.fixture
def no_network(monkeypatch):
    """No server can be reached."""

    def refuse(*args, **kwargs):
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", refuse)


def unwritable(code=errno.ENOSPC):
    """An ASCII stream on a full disk, or with another error's code."""

    class Raw(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            raise OSError(code, os.strerror(code))

    return io.TextIOWrapper(Raw(), encoding="ascii")


class Command:
    """A `python -m jaxmnist...` process; its output is in `out` and `err` once it has ended."""

    def __init__(self, module, *args, env=None, **kwargs):
        flags = [f"--{name}={value}" for name, value in kwargs.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"jaxmnist.{module}", *flags, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (env or {}),
        )

    def wait(self, timeout=600):
        self.out, self.err = self.process.communicate(timeout=timeout)
        assert "Traceback" not in self.err, self.err
        return self.process.returncode

    def kill(self, signum=signal.SIGKILL):
        self.process.send_signal(signum)


@pytest.fixture
def command():
    """Starts a Command; whatever still runs at the end of the test is killed."""
    started = []

    def start(*args, **kwargs):
        started.append(Command(*args, **kwargs))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


@pytest.fixture
def here(monkeypatch):
    """Calls the command in this process, whose memory stays as it is."""
    monkeypatch.setattr("jaxmnist.devices.tuning.keep_freed_memory", lambda: None)
    return lambda *args, **flags: main.main([*(f"--{n}={v}" for n, v in flags.items()), *args])
