"""Optimizers in pure PyTorch, the parts that they are composed of, and parameter groups."""

from optimizers.adamw_l2sp import AdamWL2SP
from optimizers.cadence import Cadence, Drift, EveryStep, Ratio
from optimizers.call_order import call_order
from optimizers.candidate_losses import candidate_losses
from optimizers.directions import Direction, DirectionFunction, adam, lion, sgd
from optimizers.gld import GLD
from optimizers.interval_search import IntervalResult, search_interval
from optimizers.line_search import LineSearchOptimizer
from optimizers.mezo import LineSearchMeZO, MeZO
from optimizers.named_parts import Part, named_parts
from optimizers.options import CommonOptions
from optimizers.parabola import Parabola, measure_parabola
from optimizers.parabolic_adam import ParabolicAdam
from optimizers.param_groups import ParamGroups, scale_learning_rates
from optimizers.peak_rate import PeakRate, PeakRateState
from optimizers.rate_measurement import RateMeasurement
from optimizers.replayed import replayed
from optimizers.salsa import SaLSA
from optimizers.searches import ArmijoSearch, Past, Search, SearchResult
from optimizers.sls import SGDSLS, AdamSLS
from optimizers.step_contract import StepRecord, Traits, UnitReport, traits

__all__ = [
    "GLD",
    "SGDSLS",
    "AdamSLS",
    "AdamWL2SP",
    "ArmijoSearch",
    "Cadence",
    "CommonOptions",
    "Direction",
    "DirectionFunction",
    "Drift",
    "EveryStep",
    "IntervalResult",
    "LineSearchMeZO",
    "LineSearchOptimizer",
    "MeZO",
    "Parabola",
    "ParabolicAdam",
    "ParamGroups",
    "Part",
    "Past",
    "PeakRate",
    "PeakRateState",
    "RateMeasurement",
    "Ratio",
    "SaLSA",
    "Search",
    "SearchResult",
    "StepRecord",
    "Traits",
    "UnitReport",
    "adam",
    "call_order",
    "candidate_losses",
    "lion",
    "measure_parabola",
    "named_parts",
    "replayed",
    "scale_learning_rates",
    "search_interval",
    "sgd",
    "traits",
]
