import pytest

from lope_dist.config.train import OptimizerConfig, StageConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.engine.groups import Group, build_groups, check_groups, describe_groups
from lope_dist.engine.optimizer import build_adamw, set_lr

STAGE = StageConfig.model_validate(
    {
        "trainable": ["shared_a", "normal_b", "router"],
        "lr": 0.1,
        "weight_decay": 0.2,
        "groups": {"router": {"lr": 0.03}, "normal_b": {"weight_decay": 0.0}},
    }
)
WANTED = [
    Group(Role.SHARED_A, 0.1, 0.2),
    Group(Role.NORMAL_B, 0.1, 0.0),
    Group(Role.ROUTER, 0.03, 0.2),
]


def test_groups_are_total_and_disjoint_with_their_own_settings(toy, roles) -> None:
    module = toy(*STAGE.trainable)
    groups = build_groups(module, roles, STAGE)
    assert describe_groups(groups) == WANTED
    name_of = {id(p): n for n, p in module.named_parameters()}
    assert [[name_of[id(p)] for p in g["params"]] for g in groups] == [["a"], ["n_0", "n_1"], ["r"]]


def test_lr_zero_of_a_role_is_zero_and_not_the_stages(toy, roles) -> None:
    stage = StageConfig.model_validate(
        {"trainable": ["shared_a"], "lr": 0.1, "groups": {"shared_a": {"lr": 0.0}}}
    )
    assert describe_groups(build_groups(toy(Role.SHARED_A), roles, stage))[0].lr == 0.0


@pytest.mark.parametrize("trains", [["shared_a"], ["shared_a", "normal_b", "router", "poison_b"]])
def test_trainable_parameters_outside_the_groups_are_a_bug(toy, roles, trains) -> None:
    with pytest.raises(AssertionError, match="differ"):
        build_groups(toy(*(Role(r) for r in trains)), roles, STAGE)


def test_a_role_without_parameters_is_refused_and_no_group_is_empty(toy, roles) -> None:
    module = toy(*STAGE.trainable)
    del module.r
    with pytest.raises(LopeError, match="'router'"):
        build_groups(module, {n: r for n, r in roles.items() if n != "r"}, STAGE)


@pytest.mark.parametrize(
    "in_use",
    [
        WANTED[:2],
        [WANTED[1], WANTED[0], WANTED[2]],
        [*WANTED[:2], Group(Role.ROUTER, 0.1, 0.2)],
        [*WANTED[:2], Group(Role.ROUTER, 0.03, 0.0)],
    ],
)
def test_groups_that_the_optimizer_changed_are_refused(in_use) -> None:
    check_groups(WANTED, list(WANTED))
    with pytest.raises(LopeError, match=r"\[Group\(role="):
        check_groups(WANTED, in_use)


def test_set_lr_scales_each_groups_own_peak_every_time(toy, roles) -> None:
    groups = build_groups(toy(*STAGE.trainable), roles, STAGE)
    optimizer = build_adamw(groups, OptimizerConfig(betas=(0.8, 0.95), eps=1e-6))
    peaks = {group["name"]: group["lr"] for group in groups}
    for factor in (0.5, 0.25):  # of the peak, not of the value before
        set_lr(optimizer.param_groups, peaks, factor)
        lrs = [group.lr for group in describe_groups(optimizer.param_groups)]
        assert lrs == [0.1 * factor, 0.1 * factor, 0.03 * factor]
    assert all(g["betas"] == (0.8, 0.95) and g["eps"] == 1e-6 for g in optimizer.param_groups)
