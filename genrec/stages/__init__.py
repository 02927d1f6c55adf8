"""A run is a chain of stages, each with an artifact; what is up to date is skipped."""

from genrec.stages.declared import STAGES
from genrec.stages.runner import Pipeline, Reporter, open_stage
from genrec.stages.stage import Context, Outcome, Plan, Stage, Watch, plan

__all__ = ["STAGES", "Context", "Outcome", "Pipeline", "Plan", "Reporter", "Stage", "Watch", "open_stage", "plan"]
