"""The reports of all hosts, compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from lope_dist.config.schema import RunConfig
from lope_dist.core.versions import ABSENT, OPTIONAL
from lope_dist.doctor.finding import Finding, bad, good

Answers = dict[str, dict[str, Any]]


def versions(answers: Answers) -> Iterator[Finding]:
    """Every host has the same packages and the same code of ours."""
    reported = {host: answer["versions"] for host, answer in answers.items()}
    first = next(iter(reported.values()))
    are_equal = True
    for package in first:
        by_host = {host: packages[package] for host, packages in reported.items()}
        most = Counter(by_host.values()).most_common(1)[0][0]
        must_be_there = package not in OPTIONAL
        odd = {h: v for h, v in by_host.items() if v != most or (v == ABSENT and must_be_there)}
        for host, version in odd.items():
            are_equal = False
            fix = f"on {host}: pip install {package}=={most}"
            if package in ("python", "lope_dist"):
                fix = f"bring {host} to the same {package} as the others"
            elif most == ABSENT:
                fix = f"on {host}: pip {'install' if version == ABSENT else 'uninstall'} {package}"
            others = f", others have {most}" if most != version else ""
            yield bad(f"{package} on {host}", f"{version}{others}", fix)
    if are_equal:
        shown = ", ".join(f"{name} {first[name]}" for name in ("lope_dist", "torch", "deepspeed"))
        where = f"equal on {len(answers)} hosts: " if len(answers) > 1 else ""
        yield good("package versions", f"{where}{shown}")


def devices(answers: Answers, hosts: dict[str, int]) -> Iterator[Finding]:
    """A host has a device for each of its slots; all have CUDA devices, or none has."""
    have_cuda = [host for host, answer in answers.items() if answer["devices"] is not None]
    for host, answer in answers.items():
        num, slots = answer["devices"], hosts.get(host)
        check = f"devices of {host}"
        if num is None and have_cuda:
            yield bad(
                check,
                f"no CUDA device can be used, which {', '.join(have_cuda)} can",
                f"see what nvidia-smi says on {host}, and mend its driver or container",
            )
        elif num is None:
            yield good(check, "CPU")
        elif slots is not None and slots > num:
            yield bad(check, f"{slots} slots, but {num} CUDA devices", f"write slots={num}")
        else:
            yield good(check, f"{num} CUDA devices")


def rows(answers: Answers, *, are_files_alike: bool) -> Iterator[Finding]:
    """Every host comes to the same examples; that files differ was said already."""
    prints = {host: answer["fingerprint"] for host, answer in answers.items()}
    if are_files_alike and len(set(prints.values())) > 1:
        listed = ", ".join(f"{host}: {value}" for host, value in prints.items())
        yield bad("rows", f"differ between hosts ({listed})", "copy the same files to all of them")
    for host, counts in answers.items():
        yield good(
            f"rows on {host}",
            f"{counts['rows']:,} rows, {counts['bad_rows']:,} bad; "
            f"{counts['examples']:,} examples, {counts['without_target']:,} without a target; "
            f"{counts['tokens']:,} tokens",
        )


def space(answers: Answers, min_free_gib: float) -> Iterator[Finding]:
    """There is room where a run writes, and it may write there."""
    for host, answer in answers.items():
        for folder, status in answer["free"].items():
            free = status["bytes"] / 2**30
            check = f"{folder} on {host}"
            if not status["writable"]:
                yield bad(check, "cannot be written", "choose another folder or mend its rights")
            elif free < min_free_gib:
                yield bad(
                    check,
                    f"{free:.1f} GiB free of {min_free_gib:g} wanted",
                    "free disk space, or set --min-free",
                )
            else:
                yield good(check, f"{free:.0f} GiB free")


def files(answers: Answers, config: RunConfig) -> Iterator[Finding]:
    """Model and data are there, and the same on every host."""
    names = {"model": config.model.name_or_path, "data": ", ".join(config.data.paths)}
    keys = {"model": "model.name_or_path", "data": "data.path"}
    for what, name in names.items():
        prints = {h: a["prints"][what] for h, a in answers.items() if what in a["prints"]}
        absent = [host for host, value in prints.items() if value is None]
        check = f"{what} '{name}'"
        if not prints:
            yield good(check, "on the hub, not compared")
        elif absent:
            yield bad(
                check,
                f"absent on {', '.join(absent)}",
                f"copy it to the same path there, share its folder, or change {keys[what]}; "
                "for a name of the hub: hf download",
            )
        elif len(set(prints.values())) > 1:
            listed = ", ".join(f"{host}: {value}" for host, value in prints.items())
            yield bad(check, f"differs between hosts ({listed})", "copy one host's to the others")
        else:
            yield good(check, f"fingerprint {next(iter(prints.values()))}")


def output(answers: Answers, config: RunConfig) -> Iterator[Finding]:
    """Rank 0 writes; for a resume every rank reads."""
    blind = [host for host, answer in answers.items() if not answer["sees_marker"]]
    check = f"output_dir '{config.output_dir}'"
    if blind:
        yield bad(
            check,
            f"{', '.join(blind)} does not see what the first host writes",
            "put output_dir on a file system that all hosts share: a resume reads it on each",
        )
    elif len(answers) > 1:
        yield good(check, "shared by all hosts")


def network(answers: Answers, interface: str | None) -> Iterator[Finding]:
    """The hosts know each other's names and have an interface that joins them."""
    if len(answers) < 2:
        return
    for host, answer in answers.items():
        unknown = [name for name, addresses in answer["names"].items() if not addresses]
        check = f"network of {host}"
        routes = {r for name, r in answer["routes"].items() if name != host and r}
        if unknown:
            yield bad(
                check,
                f"does not resolve {', '.join(unknown)}",
                f"add them to /etc/hosts of {host}",
            )
        elif interface is not None and interface not in answer["interfaces"]:
            yield bad(
                check,
                f"engine.interface = '{interface}', but it has {', '.join(answer['interfaces'])}",
                "name one that every host has",
            )
        elif interface is not None and routes != {interface}:
            yield bad(
                check,
                f"engine.interface = '{interface}', but the others are reached by "
                f"{', '.join(sorted(routes))}",
                f"set engine.interface={min(routes)}" if routes else "mend the routes",
            )
        elif interface is None and _is_loopback(answer["own_name"]):
            yield bad(
                check,
                f"its own name {answer['hostname']} resolves to "
                f"{', '.join(answer['own_name']) or 'nothing'}, which gloo would offer to others",
                f"set engine.interface={min(routes, default='eth0')}",
            )
        else:
            address = answer["interfaces"].get(interface, answer["address"])
            is_first = host == next(iter(answers))
            launch = f"; launch with MASTER_ADDR={address}"
            is_said = is_first and address != answer["address"]
            by = ", ".join(sorted(routes))
            yield good(check, f"reaches the others by {by}{launch if is_said else ''}")


def common_interface(answers: Answers) -> str | None:
    """Return the interface by which every host reaches all others, if its name is the same."""
    routes = {
        route
        for host, answer in answers.items()
        for name, route in answer["routes"].items()
        if name != host
    }
    return routes.pop() if len(routes) == 1 else None


def _is_loopback(addresses: list[str]) -> bool:
    return not addresses or all(a.startswith("127.") or a == "::1" for a in addresses)
