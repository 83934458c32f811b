"""The list of all optimizers: what makes each of them from parameters or groups, with a step size for small problems.

A new optimizer is one more line here; `test_common_properties.py` runs over the list.
"""

from __future__ import annotations

from optimizers import (
    GLD,
    SGDSLS,
    AdamSLS,
    AdamWL2SP,
    ArmijoSearch,
    Drift,
    LineSearchMeZO,
    LineSearchOptimizer,
    MeZO,
    ParabolicAdam,
    Ratio,
    SaLSA,
    adam,
    lion,
    sgd,
)
from optimizers.directions import adam_options

# These take further options, which `test_line_search_properties.py` sets.
LINE_SEARCHES = {
    "sgd": SGDSLS,
    "sgd, heavy ball": lambda params, **options: SGDSLS(params, momentum=0.5, weight_decay=0.01, **options),
    "adam": lambda params, **options: AdamSLS(params, weight_decay=0.01, **options),
    "adam, momentum": lambda params, **options: AdamSLS(params, condition="momentum", amsgrad=True, **options),
    "adam, heavy ball": lambda params, **options: AdamSLS(params, momentum="heavy_ball", **options),
    "adam, cycle": lambda params, **options: AdamSLS(params, update_rule="cycle", joint_steps=2, **options),
    "adam, impact": lambda params, **options: AdamSLS(params, update_rule="impact", joint_steps=1, **options),
    "adam, all": lambda params, **options: AdamSLS(params, update_rule="all", joint_steps=1, **options),
    "adam, merging": lambda params, **options: AdamSLS(
        params, update_rule="cycle", joint_steps=1, merge_threshold=0.05, **options
    ),
    "adam, all merging": lambda params, **options: AdamSLS(
        params, update_rule="all", joint_steps=1, merge_threshold=0.5, **options
    ),
    "salsa": lambda params, **options: SaLSA(params, weight_decay=0.01, **options),
    "salsa, ratio": lambda params, **options: SaLSA(params, cadence="ratio", **options),
    "salsa, all": lambda params, **options: SaLSA(params, update_rule="all", **options),
    "salsa, sgd": lambda params, **options: SaLSA(params, direction=sgd, **options),
    "salsa, lion": lambda params, **options: SaLSA(params, direction=lion, betas=(0.9, 0.99), **options),
    "composed": lambda params, **options: LineSearchOptimizer(
        params,
        adam,
        ArmijoSearch(c=0.3),
        Drift(max_interval=3),
        **{"initial_step_size": 0.1, "growth": 1.5, "direction_options": adam_options((0.9, 0.99), 1e-8, False)}
        | options,
    ),
}

OPTIMIZERS = {
    **LINE_SEARCHES,
    "composed of sgd and ratio": lambda params: LineSearchOptimizer(
        params, sgd, ArmijoSearch(c=0.5), Ratio(), initial_step_size=0.1, growth=2.0, growth_per="search"
    ),
    "parabolic adam": lambda params: ParabolicAdam(params, total_steps=60),
    "parabolic adam, length unknown": ParabolicAdam,
    "adamw l2-sp": lambda params: AdamWL2SP(params, lr=1e-2),
    "gld": lambda params: GLD(params, radius=0.05),
    "gld, adaptive": lambda params: GLD(params, radius=0.05, success_rate=0.4, units="group"),
    "gld, random entries": lambda params: GLD(params, radius=0.05, selection="random", subset_size=0.5),
    "gld, lookahead": lambda params: GLD(params, radius=0.05, lookahead_levels=2, lookahead_width=2),
    "mezo": lambda params: MeZO(params, lr=1e-2),
    "line search mezo": LineSearchMeZO,
}
