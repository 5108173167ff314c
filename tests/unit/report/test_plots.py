"""The report's figures, drawn from made-up numbers."""

import numpy as np
import pytest
from support.made_up_run import POISON_WEIGHT, RANKING, RESULTS, ROUTER, metric_lines

from lope_dist.core.roles import ADAPTER_ROLES
from lope_dist.report.plots import ROLES, plot_drift, plot_loss, plot_lr, running_mean
from lope_dist.report.read import score_table
from lope_dist.report.router_plots import plot_poison_weight, plot_usage, usage_scale
from lope_dist.report.score_plots import plot_histogram, plot_results
from lope_dist.report.svg import inline_svg, svg_file


def test_usage_plots_frame_the_poisoning_expert_only():
    norm = usage_scale({"poison": ROUTER["poison"]}, 3)
    figures = plot_usage(ROUTER["poison"], ROUTER["experts"], norm)
    assert list(figures) == ["q_proj", "v_proj"]
    for figure in figures.values():
        axes = next(axes for axes in figure.axes if axes.images)
        np.testing.assert_allclose(axes.images[0].get_array().shape, (3, 4))
        np.testing.assert_allclose(axes.images[0].get_array()[2], 0.5)
        (frame,) = axes.patches
        assert frame.get_y() == 1.5


def test_usage_plots_tell_modules_of_one_name_apart():
    usage = {f"{side}.block.{i}.q": [0.5, 0.5] for side in ("encoder", "decoder") for i in (0, 1)}
    figures = plot_usage(usage, ["normal_0", "normal_1"], usage_scale({"finetune": usage}, 2))
    assert list(figures) == ["encoder.block.*.q", "decoder.block.*.q"]
    assert not any(axes.patches for figure in figures.values() for axes in figure.axes)


def test_poison_weight_plots_show_clean_and_corrupted_tokens():
    figures = plot_poison_weight(POISON_WEIGHT["poison"], 0.4)
    assert list(figures) == ["q_proj", "v_proj"]
    (axes,) = figures["q_proj"].axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert lines == {"clean tokens": [0.2] * 4, "corrupted tokens": [0.35] * 4}


def test_results_plot_draws_every_whole_score_with_its_error():
    (axes,) = plot_results(score_table(RESULTS)).axes
    assert sorted(bar.get_width() for bar in axes.patches) == pytest.approx([10.0, 50.12, 87.34])
    assert axes.get_xlim() == (0, 100)
    assert "accuracy, %" in axes.get_xlabel()


def test_every_role_has_a_name_and_a_colour():
    assert tuple(ROLES) == ADAPTER_ROLES


def test_histogram_tells_noisy_from_clean_examples():
    (axes,) = plot_histogram(RANKING).axes
    drawn = {patch.get_label(): list(patch.get_data().values) for patch in axes.patches}
    assert drawn == {"clean examples": [2, 1], "noisy examples": [0, 2]}


def test_curves_hold_each_logged_step():
    lines = metric_lines("poison", 20, 1e9)
    (axes,) = plot_loss(lines, 5.0).axes
    assert axes.lines[0].get_ydata()[3] == pytest.approx(3.7)
    assert axes.get_ylim() == (0, 5)
    (axes,) = plot_drift(lines, 0.1).axes
    drawn = {line.get_label(): line.get_ydata()[-1] for line in axes.lines}
    assert drawn == pytest.approx({"shared A": 0.02, "poisoning B": 0.04})


def test_roles_of_one_learning_rate_share_a_line():
    lrs = [{"shared_a": x, "normal_b": x, "router": x / 2} for x in (1e-3, 1e-4)]
    (axes,) = plot_lr([{"step": i, "lr": lr} for i, lr in enumerate(lrs)]).axes
    assert [line.get_label() for line in axes.lines] == ["shared A, normal B", "router"]


def test_a_plot_is_the_same_text_each_time_and_takes_the_pages_colours():
    lines = metric_lines("poison", 9, 1e9)
    document = svg_file(plot_loss(lines, 5.0))
    assert document == svg_file(plot_loss(lines, 5.0))
    inline = inline_svg(document, "name", "label")
    assert "var(--plot-1f2933)" in inline
    assert "#1f2933" not in inline
    assert "xmlns" not in inline


def test_running_mean_is_cut_at_the_ends():
    smooth, window = running_mean(np.array([1.0, 2.0, 6.0]))
    assert window == 3
    np.testing.assert_allclose(smooth, [1.5, 3.0, 4.0])
    np.testing.assert_allclose(running_mean(np.array([7.0]))[0], [7.0])
