"""The whole tree and the rules that span sections."""

from __future__ import annotations

from pydantic import model_validator

from genrec.config.cluster import ClusterSettings
from genrec.config.content import ContentSettings
from genrec.config.plugin import PluginSettings
from genrec.config.sections import (
    BaselineSettings,
    BundleSettings,
    DataSettings,
    EncoderSettings,
    EvaluationSettings,
    ModelSettings,
    RaySettings,
    RetrievalSettings,
    RunSettings,
    Section,
    ServeSettings,
    TokenizerSettings,
    TrainingSettings,
)


class Settings(Section):
    """All settings of genrec."""

    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    encoder: EncoderSettings = EncoderSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    model: ModelSettings = ModelSettings()
    plugin: PluginSettings = PluginSettings()
    training: TrainingSettings = TrainingSettings()
    baselines: BaselineSettings = BaselineSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    bundle: BundleSettings = BundleSettings()
    content: ContentSettings = ContentSettings()
    ray: RaySettings = RaySettings()
    serve: ServeSettings = ServeSettings()
    cluster: ClusterSettings = ClusterSettings()

    @model_validator(mode="after")
    def _combinations(self) -> Settings:
        data, tokenizer, training, evaluation = self.data, self.tokenizer, self.training, self.evaluation
        if data.reader != "ml-100k" and data.path is None:
            raise ValueError(f"data.path: reader {data.reader!r} needs a file or directory")
        if tokenizer.kind == "published" and tokenizer.published is None:
            raise ValueError("tokenizer.published: kind 'published' needs the JSON file of codes")
        for name, table in tokenizer.tables.items():
            if table.kind == "published" and table.published is None:
                raise ValueError(f"tokenizer.tables.{name}.published: kind 'published' needs the JSON file of codes")
        if self.model.backbone == "mql4grec" and not tokenizer.tables:
            raise ValueError(
                "tokenizer.tables: backbone 'mql4grec' speaks several tables of semantic IDs, and there is only the "
                "first; add published codes (tokenizer.tables.image.kind=published and "
                "tokenizer.tables.image.published=FILE), or a table of what every data set has: "
                "tokenizer.tables.collaborative.embeddings=collaborative"
            )
        if self.model.backbone != "mql4grec" and tokenizer.tables:
            raise ValueError(
                f"tokenizer.tables: backbone {self.model.backbone!r} speaks one table of semantic IDs, got further "
                f"ones: {', '.join(tokenizer.tables)}; leave them out or set model.backbone=mql4grec"
            )
        if training.strategy == "single" and training.workers != 1:
            raise ValueError(
                f"training.workers: strategy 'single' is one process, got {training.workers}; use 'ddp' or 'deepspeed'"
            )
        if self.plugin.substitution.p1 > 0 and not self.plugin.language:
            raise ValueError(
                f"plugin.substitution.p1: {self.plugin.substitution.p1} needs the language view's predictions; "
                "set plugin.language=true or p1=0"
            )
        if training.workers_min is not None and (
            training.strategy != "ddp" or not training.workers_min <= training.workers
        ):
            raise ValueError(
                f"training.workers_min: {training.workers_min} needs strategy 'ddp' and at least as many "
                f"training.workers ({training.workers}); ZeRO's shards cannot change their number"
            )
        if evaluation.beams < max(evaluation.cutoffs):
            raise ValueError(
                f"evaluation.beams: {evaluation.beams} beams cannot fill a list of {max(evaluation.cutoffs)}; "
                "use at least the largest of evaluation.cutoffs"
            )
        return self

    @model_validator(mode="after")
    def _service(self) -> Settings:
        if self.serve.max_ongoing_requests < self.serve.batch_size:
            raise ValueError(
                f"serve.max_ongoing_requests: {self.serve.max_ongoing_requests} in flight can never fill a batch of "
                f"{self.serve.batch_size} (serve.batch_size)"
            )
        if self.serve.watch and "://" in self.run.directory:
            raise ValueError(
                f"serve.watch: follows a link in run.directory, and {self.run.directory!r} is a URI, which has none; "
                "leave it false and roll out with `python -m serve swap`"
            )
        return self
