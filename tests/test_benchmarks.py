"""The benchmarks themselves: their arithmetic, that their arms train the same, and the document that is committed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import document, gpu, packing, parity, step
from tests.benchmarks.measuring import Rounds, Unavailable, data_dir, in_turn

REPORTS = Path(__file__).parent.parent / "reports"


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """A slow round slows both arms, and so changes nothing; medians apart would give 4."""
    rounds = Rounds({"slow": [2.0, 20.0, 8.0], "fast": [1.0, 10.0, 2.0]})
    assert rounds.ratio("slow", "fast") == 2.0
    assert (rounds.median("slow"), rounds.minimum("fast")) == (8.0, 1.0)


def test_arms_take_turns_and_the_first_round_does_not_count() -> None:
    called: list[str] = []

    def arm(name: str) -> Callable[[], float]:
        def run() -> float:
            called.append(name)
            return float(len(called))

        return run

    rounds = in_turn({"a": arm("a"), "b": arm("b")}, rounds=2)
    assert called == ["b", "a", "a", "b", "b", "a"]
    assert rounds.seconds == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_parity_pairs_by_seed() -> None:
    """Differences 0.01, 0.02, 0.03: mean 0.02, standard error 0.01 / sqrt(3), t(0.975, 2) = 4.3027."""
    accuracies = {"plain fp32": (0.5, 0.6, 0.7), "engine fp32": (0.51, 0.62, 0.73), "engine bf16": (0.5, 0.6, 0.7)}
    rows = [
        {"way": way, "seed": seed, "accuracy": value}
        for way, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    found = parity.summary(rows[::-1])
    assert found["seeds"] == [0, 1, 2]
    differences = {(row["of"], row["to"]): row for row in found["differences"]}
    one = differences["engine fp32", "plain fp32"]
    half = 4.302653 * 0.01 / 3**0.5
    assert one["mean"] == pytest.approx(0.02)
    assert one["interval"] == pytest.approx([0.02 - half, 0.02 + half])
    assert differences["engine bf16", "plain fp32"]["mean"] == 0
    assert found["ways"]["engine fp32"]["sd"] == pytest.approx(0.11)
    assert parity.summary(rows[1:])["seeds"] == [1, 2]  # a seed that one way lacks is no pair


def test_without_the_images_it_is_said_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    with pytest.raises(Unavailable, match="holds no cifar-10-batches-py: name its folder with HARNESS_DATA_DIR"):
        data_dir()


@pytest.mark.real_data
def test_the_engine_the_plain_loop_and_the_step_by_hand_train_the_same(
    cifar10_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_DATA_DIR", str(cifar10_dir))
    arms = step.arms_of("experiments/small.yaml", steps=5)
    for arm in arms.values():
        arm()
    assert max(step.check_agreement(arms).values()) < step.AGREE["bf16"]
    arms["engine fp32"].losses[3] *= 1.01
    with pytest.raises(RuntimeError, match="engine fp32 does not train what the plain loop trains"):
        step.check_agreement(arms)


def test_a_steps_kernels_are_summed_by_kind() -> None:
    """Two steps' worth of launches; what no pattern names stays visible as "other"."""
    seconds = {
        "sm90_xmma_dgrad_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize256x64x32": 0.4,
        "triton_red_fused__native_batch_norm_legit_functional_2": 0.2,
        "void at::native::batch_norm_transform_input_channels_last_kernel<c10::BFloat16, float>": 0.1,
        "void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<c10::BFloat16>": 0.05,
        "Memset (Unknown)": 0.03,
        "unheard_of": 0.01,
    }
    steps = [(name, value / gpu.PROFILED) for name, value in seconds.items()] * gpu.PROFILED
    found = gpu.summed(steps)
    assert found["kinds"] == pytest.approx(
        {
            "convolutions and matrix products": 0.4,
            "fused by the compiler": 0.2,
            "batch normalisation": 0.1,
            "elementwise and sums": 0.05,
            "copies": 0.03,
            "other": 0.01,
        }
    )
    assert list(found["kinds"]) == list(found["launches"])
    assert set(found["launches"].values()) == {1.0}
    assert [name for name, _ in found["longest"]] == list(seconds)


def test_the_tuning_of_kernels_is_what_torch_knows() -> None:
    """On a GPU its rung would end the whole ladder otherwise."""
    assert not any(getattr(gpu.inductor, name) for name in gpu.TUNING)  # else it would be no rung
    with gpu.inductor.patch(gpu.TUNING):
        assert {name: getattr(gpu.inductor, name) for name in gpu.TUNING} == gpu.TUNING


TRAINS = """
import sys, time
print("ready", flush=True)
for line in sys.stdin:
    time.sleep(0.05)
    print(100.0 * int(line), flush=True)
"""


def test_runs_at_once_are_started_once_and_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    found = packing.throughputs({}, TRAINS)
    assert {count: row["images_per_second"] for count, row in found.items()} == {"1": 200.0, "2": 400.0, "4": 800.0}
    assert {row["slowest"] for row in found.values()} == {200.0}
    with pytest.raises(Unavailable, match="one of the runs ended with 3"):
        packing.throughputs({}, "import sys; sys.exit(3)")


def test_mps_is_started_for_the_runs_alone_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(Unavailable, match="there is no nvidia-cuda-mps-control"), packing.mps():
        pass
    program = tmp_path / packing.MPS
    program.write_text(f'#!/bin/sh\necho "$1" $(cat) >> {tmp_path}/told\n')
    program.chmod(0o755)
    with packing.mps() as environment:
        assert Path(environment["CUDA_MPS_PIPE_DIRECTORY"]).is_dir()
        assert (tmp_path / "told").read_text() == "-d\n"
    assert (tmp_path / "told").read_text() == "-d\n quit\n"
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(Unavailable, match="-d ended with 1"), packing.mps():
        pass


def results(of: str = "bench") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((REPORTS / f"{of}.json").read_text())
    return content


@pytest.mark.parametrize("of", ["bench", "bench_gpu"])
def test_the_committed_document_is_what_its_results_give(of: str) -> None:
    assert (REPORTS / f"{of}.md").read_text() == document.markdown(results(of))


def test_what_a_gpu_did_leaves_the_rest_of_a_step_to_waiting() -> None:
    """The rows under a step's kernels add up to the step."""
    found = results("bench_gpu")["gpu"]
    for name, profile in found["profiles"].items():
        section = document.markdown(results("bench_gpu")).split(f"goes: {name}\n")[1].split("| the longest")[0]
        shares = [float(share) for share in re.findall(r"\| (\S+) % \|", section)]
        assert len(shares) == len(profile["kinds"]) + 1
        assert sum(shares) == pytest.approx(100, abs=0.5)


def test_the_results_have_the_keys_that_scripts_rely_on() -> None:
    found = results()
    assert {"ratio_default", "ratio_equal_precision", "overhead"} <= found["step"].keys()
    assert {"ratio", "share_of_step"} <= found["input"].keys()
    assert {"ratio_default_threads", "ratio_one_thread"} <= found["study"].keys()
    assert {"help_cpu_seconds", "first_step_seconds"} <= found["start"].keys()
    assert "share_of_epoch" in found["tracking"]
