"""The section [executor] of mbench.toml."""

import pytest

from madeleine_bench.data.config import load_config
from madeleine_bench.errors import InputError
from madeleine_bench.specs.executor import QueueCluster, threads_in_a_worker

QUEUE = '[executor]\nkind = "slurm"\ncores = 8\nmemory = "32GB"\n'


def section(folder, text):
    path = folder / "mbench.toml"
    path.write_text(text)
    return load_config(path).executor


def test_without_the_section_there_is_none(tmp_path):
    assert section(tmp_path, "") is None


def test_workers_on_this_machine(tmp_path):
    found = section(tmp_path, '[executor]\nkind = "local"\nworkers = 3\n')
    assert (found.kind, found.workers, found.wait_s) == ("local", 3, 60)
    assert threads_in_a_worker(found) == 1


def test_a_cluster_that_runs(tmp_path):
    text = '[executor]\nkind = "address"\naddress = "tls://node1:8786"\ngpus_per_worker = 1\n'
    found = section(tmp_path, text)
    assert (found.address, found.gpus_per_worker) == ("tls://node1:8786", 1)


@pytest.mark.parametrize(
    ("more", "processes", "job_range", "threads"),
    [
        ("jobs = 4\n", 8, (4, 4), 1),
        ("max_jobs = 4\nprocesses = 2\n", 2, (1, 4), 4),
        ("min_jobs = 2\nmax_jobs = 4\ngpus_per_worker = 1\n", 1, (2, 4), 8),
    ],
)
def test_jobs_of_a_queue(tmp_path, more, processes, job_range, threads):
    found = section(tmp_path, QUEUE + more)
    assert isinstance(found, QueueCluster)
    assert found.workers_in_a_job == processes
    assert found.job_range == job_range
    assert threads_in_a_worker(found) == threads
    assert found.wait_s == 3600


def test_a_queue_is_a_partition(tmp_path):
    text = QUEUE + 'jobs = 1\nqueue = "gpu"\nextra_directives = ["--gres=gpu:1"]\n'
    found = section(tmp_path, text)
    assert (found.partition, found.extra_directives) == ("gpu", ("--gres=gpu:1",))


def test_cohorts_and_executor_stand_beside_each_other(tmp_path):
    text = '[cohorts.bcnb]\nfeatures = "f"\nlabels = "t"\n[executor]\nkind = "local"\n'
    (tmp_path / "mbench.toml").write_text(text)
    config = load_config(tmp_path / "mbench.toml")
    assert config.cohorts["bcnb"].features == tmp_path / "f"
    assert config.executor.kind == "local"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("executor = 3\n", r"toml:1: 'executor': "),
        (
            "[executor]\nworkers = 3\n",
            r"toml:1: 'executor': Unable to extract tag using discriminator 'kind'",
        ),
        (
            '[executor]\n\nkind = "slum"\n',
            r"toml:1: 'executor': Input tag 'slum' found using 'kind'.*expected tags: 'local'",
        ),
        (
            '[executor]\nkind = "local"\nworker = 3\n',
            r"toml:3: unknown key 'executor\.worker'; did you mean 'workers'",
        ),
        ('[executor]\nkind = "local"\nworkers = 0\n', r"toml:3: 'executor\.workers': "),
        ('[executor]\nkind = "local"\nworkers = "2"\n', r"toml:3: 'executor\.workers': .*integer"),
        ('[executor]\nkind = "local"\nwait_s = 0\n', r"toml:3: 'executor\.wait_s': "),
        ('[executor]\nkind = "address"\n', r"toml:1: missing key 'executor\.address'"),
        (
            '[executor]\nkind = "address"\naddress = "node1:8786"\n',
            r"toml:3: .*'node1:8786' is no address of a scheduler; such as tcp://node1:8786",
        ),
        ('[executor]\nkind = "pbs"\nmemory = "1GB"\njobs = 1\n', r"toml:1: missing key '.*cores'"),
        (QUEUE, r"toml:1: 'executor': give 'jobs', or 'max_jobs'"),
        (QUEUE + "jobs = 1\nmax_jobs = 2\n", r"give 'jobs', or 'max_jobs'"),
        (QUEUE + "jobs = 1\nmin_jobs = 2\n", r"'min_jobs' goes with 'max_jobs'"),
        (QUEUE + "min_jobs = 3\nmax_jobs = 2\n", r"'min_jobs' is 3, more than 'max_jobs', 2"),
        (QUEUE + "jobs = 1\nprocesses = 9\n", r"'processes' is 9, more than 'cores', 8"),
        (QUEUE + 'jobs = 1\nqueue = "a"\npartition = "b"\n', r"'queue' and 'partition'"),
        (
            QUEUE + "jobs = 1\ngpus_per_worker = 1\nprocesses = 2\n",
            r"workers of one job would share its first GPU",
        ),
        (QUEUE + "jobs = 1\ngpus_per_worker = 2\n", r"toml:6: .*one job at a time, on one GPU"),
        (
            QUEUE.replace("32GB", "much") + "jobs = 1\n",
            r"toml:4: 'executor\.memory': 'much' is no amount of memory",
        ),
        (QUEUE + 'jobs = 1\nextra_directives = "-q"\n', r"toml:6: 'executor\.extra_directives': "),
        (QUEUE + "jobs = 1\nworker_setup = [3]\n", r"toml:6: 'executor\.worker_setup\.0': "),
    ],
)
def test_faults_are_named_with_their_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        section(tmp_path, text)
