"""The files for clusters: right by Kubernetes' and JobSet's schemas, and by bash."""

import copy
import subprocess
from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api import models

from jaxmnist.main import main

CLUSTER = Path(__file__).parents[2] / "experiments/cluster"
MODELS = {
    "JobSet": models.JobsetV1alpha2JobSet,
    "PersistentVolumeClaim": models.IoK8sApiCoreV1PersistentVolumeClaim,
}


def documents():
    """The manifest's documents by kind."""
    found = list(yaml.safe_load_all((CLUSTER / "jobset.yaml").read_text()))
    return {document["kind"]: document for document in found}


def understood(kind, document):
    """What a schema keeps of a document; it drops what it does not know."""
    return MODELS[kind].from_dict(copy.deepcopy(document)).to_dict()


@pytest.mark.parametrize("kind", MODELS)
def test_the_schema_knows_every_field(kind):
    document = documents()[kind]
    assert understood(kind, document) == document
    document["spec"]["no such field"] = 1
    assert understood(kind, document) != document


def test_the_pods_are_what_jax_looks_for():
    """An indexed job of a JobSet, whose account may read pods and jobs."""
    found = documents()
    job = found["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] == 2
    account = job["template"]["spec"]["serviceAccountName"]
    assert account == found["ServiceAccount"]["metadata"]["name"]
    assert account == found["RoleBinding"]["subjects"][0]["name"]
    assert found["RoleBinding"]["roleRef"]["name"] == found["Role"]["metadata"]["name"]
    allowed = {
        (r, v) for rule in found["Role"]["rules"] for r in rule["resources"] for v in rule["verbs"]
    }
    assert allowed == {("pods", "list"), ("jobs", "get")}
    volume = job["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert volume == found["PersistentVolumeClaim"]["metadata"]["name"]


def test_the_command_of_the_pods_is_one(monkeypatch):
    container = documents()["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"][
        "spec"
    ]["containers"][0]
    assert container["command"] == ["python", "-m", "jaxmnist.main"]
    seen = []
    monkeypatch.setattr("jaxmnist.main.execute", seen.append)
    assert main(container["args"]) == 0
    assert seen[0].workdir == "/runs/jaxmnist"
    assert seen[0].config_fields == [("data_dir", "/runs/data")]


def test_the_batch_file(tmp_path):
    """Its syntax; that a run that got SIGTERM is queued again, and one that failed is not."""
    path = CLUSTER / "slurm.sbatch"
    subprocess.run(["bash", "-n", path], check=True)
    for status, requeued in ((0, False), (1, False), (143, True)):
        log = tmp_path / "log"
        log.write_text("")
        for name, ends in (("srun", status), ("scontrol", 0)):
            fake = tmp_path / name
            fake.write_text(f'#!/bin/sh\necho "{name} $@" >> {log}\nexit {ends}\n')
            fake.chmod(0o755)
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": "/home/me"}
        env |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "jaxmnist"}
        run = subprocess.run(["bash", path, "--config.seed=3"], env=env)
        assert run.returncode == status
        calls = log.read_text().splitlines()
        assert calls[0].endswith(
            "-m jaxmnist.main --workdir=/home/me/runs/jaxmnist --config.seed=3"
        )
        assert calls[1:] == (["scontrol requeue 7"] if requeued else [])
