"""Exposition texts made from profiles, for dialects of which no recording could be had."""

from __future__ import annotations

from fleet.profiles import Profile


def exposition_of(profile: Profile) -> list[str]:
    """A text in which every field of a profile has one series."""
    lines: list[str] = []
    labels = {name[0]: f"x-{about}" for about, name in profile.labels.items() if name}
    for wanted in profile.fields:
        matching = {label: pattern.split("|")[0].replace("..", "00") for label, pattern in wanted.match.items()}
        if wanted.match.get("status", "").startswith("(?!OK"):
            matching["status"] = "INTERNAL"
        matching = {label: value.replace(".+", "x").replace(".*", "chat") for label, value in matching.items()}
        own = {**labels, **matching, **({wanted.label: "fact"} if wanted.label else {})}

        def line(name: str, value: float, *, own: dict[str, str] = own, **more: str) -> str:
            pairs = ",".join(f'{label}="{text}"' for label, text in {**own, **more}.items())
            return f"{name}{{{pairs}}} {value}"

        metric = wanted.metrics[0]
        if wanted.type == "histogram":
            lines += [line(f"{metric}_bucket", 30, le="1"), line(f"{metric}_bucket", 40, le="+Inf")]
            lines.append(line(f"{metric}_sum", 20))
        elif wanted.type == "mean":
            lines += [line(metric, 8), line(wanted.counts[0], 4)]
        else:
            lines.append(line(metric, 2))
        if wanted.divide_by:
            lines.append(line(wanted.divide_by, 4))
    lines += [f"{name} 1" for name in profile.requires]
    series = {
        line.rpartition(" ")[0]: line for line in reversed(lines)
    }  # fields may share one: the first says its value
    return list(series.values())
