"""Run and Jobs: the form and its errors, the estimate, the queue."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from showing import show, texts

from longatlas.harness import estimating, jobs
from longatlas.harness.cells import expand
from longatlas.harness.estimating import estimate
from longatlas.harness.plan import Plan
from longatlas.store import Store
from longatlas.store.schema import JOBS, SETTINGS


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"t": "²"}, "lengths has"),
        ({"t": "9" * 30}, "lengths has"),
        ({"t": "512,abc"}, "abc"),
        ({"t": "0"}, "expected a whole number"),
        ({"m": "sliding_window:window=0"}, "expected a whole number of at least 1"),
    ],
)
def test_run_refuses_absurd_values_of_the_url_at_the_field(empty: Store, query: dict[str, str], said: str) -> None:
    app = show("run", **({"m": "vanilla"} | query))
    assert said in app.error[0].value.replace("\\", "")
    assert app.button(key="start").disabled


def test_run_takes_an_option_that_no_number_field_can_hold(empty: Store) -> None:
    app = show("run", m=f"sliding_window:window={'9' * 26}")
    assert not app.error
    assert "9" * 26 in texts(app)


def test_run_counts_cells_and_gives_the_same_plan(filled: Store) -> None:
    app = show("run", m="vanilla,alibi", t="512,1024", w="speed")
    assert [metric.value for metric in app.metric] == ["12", "12", "0"]  # and no estimate of nothing
    plan = Plan(methods=("vanilla", "alibi"), lengths=(512, 1024), measure=("speed",))
    assert plan.hash in texts(app)
    assert "longatlas run --methods vanilla,alibi --measure speed --lengths 512,1024" in texts(app)


def test_run_shows_an_error_at_its_field(empty: Store) -> None:
    app = show("run", m="vanilla")
    app.multiselect(key="run_methods").set_value(["vanila"]).run()
    assert "did you mean" in app.error[0].value.replace("\\", "")
    assert app.button(key="start").disabled
    app.multiselect(key="run_methods").set_value(["yarn+alibi"]).run()
    assert "fill the slot" in app.error[0].value
    app.multiselect(key="run_methods").set_value(["vanilla"]).run()
    app.number_input(key="run_head_size").set_value(7).run()
    assert "even" in app.error[0].value
    app.number_input(key="run_head_size").set_value(32).run()
    app.text_input(key="run_corpus").set_value("/nowhere/at/all").run()
    assert "does not exist" in app.error[0].value


def test_run_draws_options_and_their_values_reach_the_plan(empty: Store) -> None:
    app = show("run", m="infini_attention")
    app.selectbox(key="run_o_infini_attention_infini_attention_update").set_value("delta").run()
    assert "--methods infini_attention:update=delta" in texts(app)


def test_run_submits_once_and_shows_the_job(empty: Store) -> None:
    app = show("run", m="vanilla", t="128", w="speed", p="prefill")
    app.button(key="start").click().run()
    assert not app.exception
    assert "Job 1" in texts(app)
    assert [job.plan.lengths for job in jobs.jobs(empty)] == [(128,)]


def test_jobs_shows_the_grid_and_cancels(filled: Store) -> None:
    job = jobs.submit(filled, Plan(methods=("vanilla",), lengths=(512, 4096)), start=False)
    app = show("jobs", job=str(job.id))
    assert "out of memory (1)" in texts(app)
    app.button(key="cancel").click().run()
    assert jobs.job(filled, job.id).status == jobs.CANCELLED


def test_a_cancelled_job_runs_again_as_a_new_one(filled: Store) -> None:
    old = jobs.submit(filled, Plan(methods=("yarn",), lengths=(64,)), start=False)
    jobs.cancel(filled, old.id)
    app = show("jobs", job=str(old.id))
    app.button(key="again").click().run()
    new = jobs.jobs(filled)[0]
    assert (new.status, new.plan) == (jobs.QUEUED, old.plan)
    assert f"Job {new.id}" in texts(app)
    jobs.cancel(filled, new.id)


def test_what_failed_in_a_job_is_tried_again(filled: Store) -> None:
    old = jobs.submit(filled, Plan(methods=("vanilla",), lengths=(512, 4096), measure=("speed",)), start=False)
    jobs.update(filled, old.id, status=jobs.DONE)
    app = show("jobs", job=str(old.id))
    assert app.button(key="retry").label == "Retry the 1 failed"
    app.button(key="retry").click().run()
    new = jobs.jobs(filled)[0]
    assert (new.status, new.plan, new.retry) == (jobs.QUEUED, old.plan, True)
    jobs.cancel(filled, new.id)


def test_a_job_of_a_method_that_is_gone_stands_on_home_and_jobs(filled: Store) -> None:
    job = jobs.submit(filled, Plan(methods=("alibi",), lengths=(64,)), start=False)
    jobs.update(filled, job.id, plan="methods: [uninstalled]")
    home = texts(show("home")).replace("\\", "")
    assert f"plan {job.plan_hash} cannot be run here: job {job.id}" in home
    app = show("jobs", job=str(job.id))
    assert "unknown method 'uninstalled'" in app.warning[0].value.replace("\\", "")
    assert "uninstalled" in texts(app)
    app.button(key="cancel").click().run()
    assert jobs.job(filled, job.id).status == jobs.CANCELLED
    app = show("jobs", job=str(job.id))
    app.button(key="again").click().run()
    assert "unknown method 'uninstalled'" in app.error[0].value.replace("\\", "")
    with filled.writing() as connection:
        connection.execute(sa.delete(JOBS).where(JOBS.c.id == job.id))


@pytest.mark.parametrize("number", ["999", "abc", "-1", "²", "9" * 30, "<b>x</b>"])
def test_jobs_says_what_an_unknown_job_is(filled: Store, number: str) -> None:
    jobs.cancel(filled, jobs.submit(filled, Plan(methods=("alibi",)), start=False).id)
    error = show("jobs", job=number).error[0].value
    assert number in error.replace("\\", "")


def test_run_estimates_time_and_memory_and_refuses_what_cannot_fit(filled: Store) -> None:
    app = show("run", m="vanilla", t="8192", w="memory", p="prefill")
    values = {metric.label: metric.value for metric in app.metric}
    assert values["To measure"] == "1"
    assert values["Time, about"] == "1 s"
    assert "MiB" in values["Peak memory, about"]
    assert not app.button(key="start").disabled
    app = show("run", m="vanilla", t=str(1 << 34), w="memory", p="prefill")
    assert "It cannot fit" in app.error[0].value
    assert app.button(key="start").disabled
    unknown = show("run", m="yarn", t="512", w="speed", p="prefill")
    assert "rule of thumb" in texts(unknown)


def test_run_refuses_what_cannot_fit_without_history(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "_memory", lambda device: 24.0 * 2**30)
    app = show("run", m="vanilla", t=str(1 << 24), w="memory", p="train")
    assert "would need at least" in app.error[0].value
    assert app.button(key="start").disabled
    app = show("run", m="vanilla", t="512", w="memory", p="train")
    values = {metric.label: metric.value for metric in app.metric}
    assert values["Peak memory, at least"].endswith("MiB")
    assert not app.button(key="start").disabled


def test_estimates_are_of_the_same_implementation_machine_and_threads(empty: Store) -> None:
    plan = Plan(methods=("vanilla",), measure=("speed",), phases=("prefill",), lengths=(512,), threads=1)
    (cell,) = expand(plan)
    longer = expand(plan.with_values({"lengths": (1024,)}))
    empty.save(cell.record([{"metric": "prefill_ms", "value": 1.0, "n": 1000}], 77.0))
    assert estimate(empty, plan, longer).seconds == 77.0
    for changes in ({"impl": "reference"}, {"threads": 2}, {"dtype": "float64"}):
        other = plan.with_values({"lengths": (1024,), **changes})
        assert estimate(empty, other, expand(other)).guessed == 1, changes
    with empty.writing() as connection:
        connection.execute(sa.update(SETTINGS).values(machine="another"))
    assert estimate(empty, plan, longer).guessed == 1
