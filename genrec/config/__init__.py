"""Settings: one strict tree, read from ray_config.yaml and overridden by ``--set a.b=c``."""

from genrec.config.load import load_settings, resolved_yaml
from genrec.config.plugin import AlignmentSettings, PluginSettings, SubstitutionSettings
from genrec.config.sections import (
    BaselineSettings,
    BundleSettings,
    DataSettings,
    DeepSpeedSettings,
    EncoderSettings,
    EvaluationSettings,
    ItemKNNSettings,
    LossTerm,
    ModelSettings,
    RaySettings,
    RetrievalSettings,
    RunSettings,
    SasRecSettings,
    ServeSettings,
    TokenizerSettings,
    TrainingSettings,
)
from genrec.config.tree import Settings

__all__ = [
    "AlignmentSettings",
    "BaselineSettings",
    "BundleSettings",
    "DataSettings",
    "DeepSpeedSettings",
    "EncoderSettings",
    "EvaluationSettings",
    "ItemKNNSettings",
    "LossTerm",
    "ModelSettings",
    "PluginSettings",
    "RaySettings",
    "RetrievalSettings",
    "RunSettings",
    "SasRecSettings",
    "ServeSettings",
    "Settings",
    "SubstitutionSettings",
    "TokenizerSettings",
    "TrainingSettings",
    "load_settings",
    "resolved_yaml",
]
