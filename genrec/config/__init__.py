"""Settings: one strict tree, read from ray_config.yaml and overridden by ``--set a.b=c``."""

from genrec.config.cluster import ClusterSettings, WorkerGroupSettings
from genrec.config.content import ContentSettings, FidelitySettings, InstructorSettings, PictureSettings
from genrec.config.grids import ArmSettings, Cell, GridSettings, grid_cells, load_grids
from genrec.config.load import load_settings, resolved_yaml
from genrec.config.plugin import AlignmentSettings, PluginSettings, SubstitutionSettings
from genrec.config.sections import (
    BaselineSettings,
    BundleSettings,
    DataSettings,
    DeepSpeedSettings,
    EncoderSettings,
    EvaluationSettings,
    FurtherTableSettings,
    ItemKNNSettings,
    LossTerm,
    ModelSettings,
    RaySettings,
    RetrievalSettings,
    RunSettings,
    SasRecSettings,
    ServeSettings,
    TaskMixSettings,
    TokenizerSettings,
    TrainingSettings,
)
from genrec.config.tree import Settings

__all__ = [
    "AlignmentSettings",
    "ArmSettings",
    "BaselineSettings",
    "BundleSettings",
    "Cell",
    "ClusterSettings",
    "ContentSettings",
    "DataSettings",
    "DeepSpeedSettings",
    "EncoderSettings",
    "EvaluationSettings",
    "FidelitySettings",
    "FurtherTableSettings",
    "GridSettings",
    "InstructorSettings",
    "ItemKNNSettings",
    "LossTerm",
    "ModelSettings",
    "PictureSettings",
    "PluginSettings",
    "RaySettings",
    "RetrievalSettings",
    "RunSettings",
    "SasRecSettings",
    "ServeSettings",
    "Settings",
    "SubstitutionSettings",
    "TaskMixSettings",
    "TokenizerSettings",
    "TrainingSettings",
    "WorkerGroupSettings",
    "grid_cells",
    "load_grids",
    "load_settings",
    "resolved_yaml",
]
