"""The sections of the settings tree. Unknown keys are errors; units stand in the names or docs."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

FIRST_TABLE = "text"
"""Name of the table of semantic IDs that every host speaks."""

TableName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]


class Section(BaseModel):
    """A strict, immutable part of the tree."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class RunSettings(Section):
    """Where a run lives and what makes it repeatable."""

    name: str = Field("demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="folder below runs/")
    directory: str = Field(
        "runs", description="holds one folder a run and the shared artifact store; or a URI: s3://bucket/runs, gs://..."
    )
    mirror: str | None = Field(None, description="where a URI is mirrored on each machine; none: ~/.cache/genrec")
    seed: NonNegativeInt = Field(0, description="seeds weights, sampling and dropout of trained models")


class DataSettings(Section):
    """Raw interactions, filtering and splits."""

    reader: Literal["ml-100k", "ml-1m", "amazon-2014", "amazon-2018", "amazon-2023", "research", "table"] = "ml-100k"
    path: str | None = Field(None, description="file or directory; ml-100k needs none (the recbole wheel carries it)")
    feedback: str | None = Field(
        None, description="file of the endpoint's feedback that is read after the data; made by --from-feedback"
    )
    user_column: str = Field("user", description="reader `table` only")
    item_column: str = Field("item", description="reader `table` only")
    time_column: str = Field("time", description="reader `table` only")
    min_user_interactions: PositiveInt = Field(5, description="k-core: fewest interactions of a user")
    min_item_interactions: PositiveInt = Field(5, description="k-core: fewest interactions of an item")
    split: Literal["leave-one-out", "temporal"] = "leave-one-out"
    valid_share: float = Field(
        0.1, gt=0, lt=0.5, description="temporal: share of all interactions after the train time"
    )
    test_share: float = Field(0.1, gt=0, lt=0.5, description="temporal: share of all interactions after the valid time")
    head_share: float = Field(
        0.2, gt=0, lt=1, description="items (by training count) that are head; the others are tail"
    )
    head_rule: Literal["training-counts", "literature"] = Field(
        "training-counts", description="literature: counts over all interactions, as GENPLUGIN's release does"
    )
    max_history: PositiveInt = Field(20, description="items of history a model sees")


class EncoderSettings(Section):
    """Frozen item encoder."""

    text: Literal["minilm", "tfidf-svd"] = "minilm"
    path: str | None = Field(None, description="minilm only: a sentence-transformers directory; none: the packaged one")
    dimension: PositiveInt = Field(128, description="tfidf-svd only: number of components")
    batch_size: PositiveInt = 64
    max_tokens: PositiveInt = Field(128, description="minilm only: longer texts are cut")


class CodeSettings(Section):
    """How one table of semantic IDs is made of item embeddings."""

    kind: Literal["rq-vae", "residual-kmeans", "random", "published", "letter"] = Field(
        "rq-vae", description="letter: rq-vae aligned with SASRec's item vectors, which are trained before"
    )
    embeddings: Literal["text", "collaborative", "both"] = Field(
        "text",
        description="what is quantized; collaborative: SASRec's item vectors, which are trained before; both: the two "
        "side by side",
    )
    seed: NonNegativeInt = 0
    level_sizes: tuple[PositiveInt, ...] = Field((256, 256, 256), min_length=1, max_length=8)
    unique: Literal["collision-level", "reallocate"] = Field(
        "collision-level", description="reallocate: colliding items move to the nearest free code of the last level"
    )
    published: str | None = Field(None, description="kind `published`: the JSON file of codes")
    published_first_id: NonNegativeInt | None = Field(
        None,
        description="kind `published`: the file's key k is the item with the raw id k + this; none: keys are "
        "raw ids or the catalog's own numbers",
    )
    hidden: tuple[PositiveInt, ...] = Field((512, 256, 128), description="rq-vae: widths of the encoder")
    latent: PositiveInt = Field(32, description="width of the quantized vector; residual-kmeans: principal components")
    commitment: NonNegativeFloat = Field(0.25, description="rq-vae: weight of the commitment loss (TIGER: 0.25)")
    epochs: PositiveInt = Field(60, description="rq-vae: most passes over the items; ends earlier once it is flat")
    batch_size: PositiveInt = Field(256, description="rq-vae: items a step")
    learning_rate: PositiveFloat = Field(1e-3, description="rq-vae")
    sinkhorn: bool = Field(False, description="rq-vae: balanced assignment on the last level while training")
    kmeans_iterations: PositiveInt = Field(25, description="iterations of each k-means")
    alignment: NonNegativeFloat = Field(0.01, description="letter: weight of the alignment with SASRec's item vectors")
    diversity: NonNegativeFloat = Field(1e-4, description="letter: weight of the diversity of codes")
    clusters: PositiveInt = Field(10, description="letter: equal-sized clusters of each codebook, for the diversity")

    @model_validator(mode="after")
    def _letter_quantizes_text(self) -> Self:
        if self.kind == "letter" and self.embeddings != "text":
            raise ValueError(
                f"embeddings: kind 'letter' quantizes texts and leans on SASRec's vectors, got {self.embeddings!r}; "
                "leave it at 'text' or set kind=residual-kmeans"
            )
        return self


class FurtherTableSettings(CodeSettings):
    """A further table of semantic IDs beside the first."""

    def codes(self) -> TokenizerSettings:
        """What the tokenizer of this table is fitted with."""
        return TokenizerSettings(**{name: getattr(self, name) for name in CodeSettings.model_fields})


class TokenizerSettings(CodeSettings):
    """Semantic IDs from item embeddings: the table `text`, and further ones by name."""

    tables: dict[TableName, FurtherTableSettings] = Field(
        {}, description="further tables by name, in one vocabulary with the first; backbone `mql4grec` only"
    )

    @field_validator("tables")
    @classmethod
    def _names(cls, tables: dict[str, FurtherTableSettings]) -> dict[str, FurtherTableSettings]:
        if FIRST_TABLE in tables:
            raise ValueError(f"tokenizer.tables: {FIRST_TABLE!r} is the first table's name; take another")
        return dict(sorted(tables.items()))


class TaskMixSettings(Section):
    """What backbone `mql4grec` trains and how it recommends (arXiv 2504.05314).

    A step trains the next item in the first table, and one further task drawn by these weights; a weight is spread
    evenly over all pairs of tables that the task has.
    """

    prompt_length: PositiveInt = Field(4, description="states of a task's soft prompt")
    weight: NonNegativeFloat = Field(1.0, description="weight of the further task's loss")
    next: NonNegativeFloat = Field(1.0, description="a history in a further table -> next item in the same table")
    cross: NonNegativeFloat = Field(1.0, description="a history in one table -> next item in another")
    fused: NonNegativeFloat = Field(0.5, description="a history in all tables at once -> next item in one")
    translate: NonNegativeFloat = Field(0.2, description="an item's codes in one table -> its codes in another")
    ensemble: Literal["average", "mixture", "first"] = Field(
        "average",
        description="how the tables' lists become one. average: the paper's rule; mixture: mean of probabilities, a "
        "distribution over items; first: the first table's list alone",
    )


class ModelSettings(Section):
    """The host backbone. Defaults are the shape that GENPLUGIN's paper gives its hosts."""

    backbone: Literal["tiger", "letter", "decoder-only", "mql4grec"] = Field(
        "tiger",
        description="letter: TIGER's network, meant for tokenizer.kind `letter`; mql4grec: TIGER's network over "
        "several tables of semantic IDs (tokenizer.tables)",
    )
    d_model: PositiveInt = 128
    d_ff: PositiveInt = 1024
    heads: PositiveInt = 6
    d_head: PositiveInt = 64
    encoder_layers: PositiveInt = 4
    decoder_layers: PositiveInt = 4
    dropout: float = Field(0.1, ge=0, lt=1)
    relative_buckets: PositiveInt = 32
    relative_max_distance: PositiveInt = 128
    tie_embeddings: bool = Field(True, description="logits by the code embeddings, scaled as T5 does; false: own head")
    code_embeddings: Literal["random", "centroids"] = Field(
        "random",
        description="what code embeddings begin as; centroids: the mean of a code's items in the space that was "
        "quantized, level by level",
    )
    encoder_attention: Literal["bidirectional", "causal"] = Field(
        "bidirectional", description="causal: an item attends to earlier items only; all prefixes train in one pass"
    )
    tasks: TaskMixSettings = TaskMixSettings()

    @model_validator(mode="after")
    def _combinations(self) -> ModelSettings:
        if self.backbone == "decoder-only" and self.encoder_attention != "causal":
            raise ValueError(
                f"model.encoder_attention: backbone 'decoder-only' reads causally, got {self.encoder_attention!r}; "
                "set model.encoder_attention=causal"
            )
        if self.backbone == "decoder-only" and self.d_head % 2:
            raise ValueError(f"model.d_head: rotary positions of 'decoder-only' need an even width, got {self.d_head}")
        return self


class LossTerm(Section):
    """One loss of the registry and its weight."""

    name: str
    weight: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 1.0


class DeepSpeedSettings(Section):
    """ZeRO and its offload; used by strategy `deepspeed` only. Bucket sizes count elements."""

    zero_stage: Literal[1, 2, 3] = Field(
        2, description="what is sharded: 1 optimizer states, 2 also gradients, 3 also parameters"
    )
    offload_optimizer: Literal["none", "cpu", "nvme"] = Field("none", description="GPU nodes only")
    offload_parameters: Literal["none", "cpu", "nvme"] = Field("none", description="GPU nodes only, stage 3")
    nvme_path: str | None = Field(None, description="directory on a local NVMe drive, for offload to nvme")
    reduce_bucket_elements: PositiveInt = 50_000_000
    gather_bucket_elements: PositiveInt = 50_000_000
    prefetch_elements: NonNegativeInt = Field(10_000_000, description="stage 3: parameters gathered ahead of use")
    persistence_elements: NonNegativeInt = Field(10_000, description="stage 3: smaller parameters are not sharded")
    overlap_communication: bool = True

    @model_validator(mode="after")
    def _combinations(self) -> DeepSpeedSettings:
        if self.offload_parameters != "none" and self.zero_stage != 3:
            raise ValueError(
                f"training.deepspeed.offload_parameters: only zero_stage 3 offloads parameters, got {self.zero_stage}"
            )
        if self.offload_optimizer == "nvme" and self.zero_stage != 3:
            raise ValueError(
                f"training.deepspeed.offload_optimizer: 'nvme' needs zero_stage 3, got {self.zero_stage}; use 'cpu'"
            )
        if "nvme" in (self.offload_optimizer, self.offload_parameters) and self.nvme_path is None:
            raise ValueError("training.deepspeed.nvme_path: offload to nvme needs a directory")
        return self


class TrainingSettings(Section):
    """The train loop and how it is spread."""

    strategy: Literal["single", "ddp", "deepspeed"] = Field("ddp", description="single: no Ray, this process")
    workers: PositiveInt = 1
    workers_min: PositiveInt | None = Field(
        None, description="ddp: go on with as few workers as this while the cluster has no more; none: always `workers`"
    )
    cpus_per_worker: PositiveFloat = 1.0
    gpus_per_worker: NonNegativeFloat = 0.0
    max_failures: NonNegativeInt = Field(3, description="worker failures survived before the run fails")
    wait_minutes: PositiveFloat = Field(
        15.0, description="wait so long for a lost node to come back or be replaced, before the run fails"
    )
    resize_check_s: PositiveFloat = Field(
        60.0, description="with workers_min: seconds between looks whether the cluster has room for more workers again"
    )
    batch_size: PositiveInt = Field(512, description="training targets a step, over all workers")
    micro_batch: PositiveInt | None = Field(
        None,
        description="targets computed at a time, gradients added up (not deepspeed, nor losses that compare rows); "
        "none: 128 on a CPU, whose caches that suits, and the worker's whole part on a GPU",
    )
    epochs: PositiveInt = 200
    max_steps: PositiveInt | None = Field(None, description="stop after so many optimizer steps")
    max_minutes: PositiveFloat | None = Field(None, description="stop after so much wall time of training")
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 0.01
    warmup_share: float = Field(0.01, ge=0, le=1, description="share of all steps with rising learning rate")
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: PositiveFloat | None = 1.0
    patience: PositiveInt | None = Field(20, description="validations without improvement before stopping")
    validate_every: PositiveInt = Field(1, description="epochs between validations")
    validation_users: PositiveInt | None = Field(2000, description="users sampled for a validation; none: all")
    checkpoint_every: PositiveInt = Field(1, description="epochs between checkpoints")
    checkpoint_steps: PositiveInt | None = Field(None, description="steps between further checkpoints inside an epoch")
    upload: str | None = Field(
        None,
        description="folder or URI (s3://, gs://) to which checkpoints are copied while training goes on, and from "
        "which a run whose own folder is lost goes on; none: nowhere",
    )
    log_every: PositiveInt = Field(10, description="steps between points of the training curves")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of matrix products; auto: bf16 on a GPU that has it, fp32 on a CPU"
    )
    losses: tuple[LossTerm, ...] = (LossTerm(name="next-item"),)
    deepspeed: DeepSpeedSettings = DeepSpeedSettings()
    tensorboard: bool = True
    mlflow_uri: str | None = Field(None, description="tracking URI; none: no MLflow log")


class SasRecSettings(Section):
    """The tuned SASRec of every table (d 128, 2 blocks, 2 heads, dropout .4, AdamW 3e-3)."""

    d_model: PositiveInt = 128
    layers: PositiveInt = 2
    heads: PositiveInt = 2
    dropout: float = Field(0.4, ge=0, lt=1)
    negatives: PositiveInt | None = Field(2048, description="uniform negatives in the softmax; none: full softmax")
    batch_size: PositiveInt = Field(256, description="users a step")
    epochs: PositiveInt = 70
    learning_rate: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 0.03
    patience: PositiveInt | None = 10


class ItemKNNSettings(Section):
    """Co-occurrence item-kNN, what a user would try first."""

    tune: bool = Field(True, description="choose the values below on validation targets, beginning with these")
    window: PositiveInt = Field(5, description="steps within which two items count as together, weight 1/gap")
    reverse: NonNegativeFloat = Field(0.5, description="weight of the transposed counts")
    degree_power: NonNegativeFloat = Field(0.5, description="columns are scaled by degree ** -this")
    decay: float = Field(0.7, gt=0, le=1, description="weight of the history per step back (0.9 suits ML-100K)")


class ContentKNNSettings(Section):
    """Content item-kNN: items whose texts are like those of the history."""

    tune: bool = Field(True, description="choose power and decay on validation targets, beginning with these")
    neighbours: PositiveInt = Field(200, description="nearest items kept of each item")
    power: PositiveFloat = Field(4.0, description="a neighbour weighs cosine ** this")
    decay: float = Field(0.7, gt=0, le=1, description="weight of the history per step back")


class LinearSettings(Section):
    """Linear item-item model: ridge regression from a history to what follows it."""

    tune: bool = Field(True, description="choose ridge and decay on validation targets, beginning with these")
    window: PositiveInt = Field(20, description="items that follow, the i-th weighing 1/i")
    history_decay: float = Field(0.8, gt=0, le=1, description="weight per step back of the histories it is fitted to")
    ridge: PositiveFloat = Field(300.0, description="added to the diagonal; larger: nearer to plain counts")
    popularity_power: NonNegativeFloat = Field(
        0.5, description="columns are scaled by popularity ** -this; alone 0 is best, beside other sources more"
    )
    neighbours: PositiveInt = Field(300, description="largest weights kept of each item")
    most_items: PositiveInt = Field(
        15_000, description="items that take part, those with most interactions; 20 bytes for each pair"
    )
    decay: float = Field(0.8, gt=0, le=1, description="weight per step back of the history asked about")


VoteSource = Literal["neighbours", "text", "collaborative", "item-knn", "content-knn", "linear", "sasrec"]


class RetrievalSettings(Section):
    """Users like this user, and what they vote for."""

    paths: tuple[Literal["text", "collaborative"], ...] = Field(("text", "collaborative"), min_length=1)
    candidates: PositiveInt = Field(50, description="users each path proposes (the paper's z)")
    neighbours: PositiveInt = Field(30, description="users kept after re-ranking (the paper's v)")
    merge: Literal["union", "intersection-first"] = Field(
        "union", description="intersection-first (the paper): users that both paths propose come before all others"
    )
    rerank: Literal["fused", "representation", "paths"] = Field(
        "fused", description="order by BM25 and representation, by representation alone (the paper), or by the paths"
    )
    max_history: PositiveInt = Field(20, description="latest items that make a user's document and query")
    bm25_engine: Literal["bm25s", "rank-bm25"] = Field(
        "bm25s", description="one ranking; rank-bm25 is the slow reference, for small corpora"
    )
    bm25_k1: PositiveFloat = 1.5
    bm25_b: float = Field(0.75, ge=0, le=1)
    ivf_from: PositiveInt = Field(
        200_000, description="users (content-kNN: items) from which FAISS searches clusters (approximate), not all"
    )
    ivf_probes: PositiveInt = Field(32, description="clusters that a search visits")
    vote_sources: tuple[VoteSource, ...] = Field(
        ("text", "item-knn", "content-knn", "linear", "sasrec"),
        description="who votes for items; text, collaborative: users of that path; neighbours: the merged users",
    )
    vote_items: PositiveInt = Field(200, description="items a source votes for (M)")
    vote_popularity_power: float = Field(-0.5, ge=-1, le=0, description="a vote weighs (training count) ** this")
    vote_score_power: NonNegativeFloat = Field(2.0, description="a neighbour weighs (score / best score) ** this")
    vote_recency: float = Field(0.9, gt=0, le=1, description="weight of a neighbour's item per step back in time")
    train_positions: PositiveInt | None = Field(
        None, description="cached moments of a user's training part, the latest first; none: all"
    )
    block_queries: PositiveInt = Field(1024, description="cache: queries answered and committed at once")
    shard_users: PositiveInt = Field(50_000, description="cache: users of one BM25 shard")
    workers: PositiveInt | None = Field(None, description="cache: actors at once; none: as many as the CPUs allow")

    @model_validator(mode="after")
    def _combinations(self) -> RetrievalSettings:
        for name in ("paths", "vote_sources"):
            value = getattr(self, name)
            if len(set(value)) != len(value):
                raise ValueError(f"retrieval.{name}: {list(value)} names one twice")
        for source in ("text", "collaborative"):
            if source in self.vote_sources and source not in self.paths:
                raise ValueError(f"retrieval.vote_sources: {source!r} is not one of retrieval.paths {list(self.paths)}")
        if self.neighbours > self.candidates * len(self.paths):
            raise ValueError(
                f"retrieval.neighbours: {self.neighbours} cannot be kept of {len(self.paths)} x {self.candidates} "
                "candidates (retrieval.candidates)"
            )
        return self


class BaselineSettings(Section):
    """What a user would try first."""

    sasrec: SasRecSettings = SasRecSettings()
    item_knn: ItemKNNSettings = ItemKNNSettings()
    content_knn: ContentKNNSettings = ContentKNNSettings()
    linear: LinearSettings = LinearSettings()


class EvaluationSettings(Section):
    """Full-ranking evaluation."""

    cutoffs: tuple[PositiveInt, ...] = (5, 10, 20)
    beams: PositiveInt = Field(20, description="beam width, at least the largest cutoff")
    batch_size: PositiveInt = 64
    seen_items: Literal["exclude", "keep"] = "exclude"
    exposure: bool = Field(False, description="measure the exposure bias of the generators, into exposure.json")
    bootstrap_samples: PositiveInt = 1000
    confidence: float = Field(0.95, gt=0.5, lt=1)


class BundleSettings(Section):
    """What serving loads."""

    name: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="link below bundles/")
    floor: Literal["none", "popularity"] = Field(
        "none", description="popularity: refuse to bundle a model whose NDCG over all users is not above popularity's"
    )


class RaySettings(Section):
    """The Ray cluster."""

    address: str | None = Field(None, description="none: a local cluster of this process; auto; or ray://host:port")
    num_cpus: PositiveInt | None = Field(None, description="local cluster only")
    object_store_mib: PositiveInt = Field(512, description="local cluster only")
    dashboard: bool = Field(True, description="local cluster only: Ray's dashboard, on 127.0.0.1 alone")


class PartSettings(Section):
    """Replicas of one deployment of the composed application."""

    cpus: PositiveFloat = Field(0.1, description="CPUs of a replica")
    replicas: PositiveInt = Field(1, description="fewest replicas")
    max_replicas: PositiveInt | None = Field(None, description="most replicas, by load; none: no autoscaling")
    max_ongoing_requests: PositiveInt = Field(4, description="requests that a replica works at")
    max_queued_requests: PositiveInt = Field(16, description="requests that wait; further ones get 503")

    @model_validator(mode="after")
    def _range(self) -> PartSettings:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"serve: max_replicas {self.max_replicas} is less than replicas {self.replicas}")
        return self


class AutoscalingSettings(Section):
    """How replicas follow the load, where a deployment has `max_replicas`."""

    target_load: float = Field(
        0.5, gt=0, le=1, description="wanted requests of a replica, as a share of its max_ongoing_requests"
    )
    look_back_s: PositiveFloat = Field(10.0, description="load is averaged over this time")
    upscale_delay_s: NonNegativeFloat = Field(5.0, description="load must last so long before replicas are added")
    downscale_delay_s: NonNegativeFloat = Field(60.0, description="and so long before they are taken away")


class ServeSettings(Section):
    """The HTTP endpoint."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0: any free port")
    haproxy: bool | None = Field(
        None,
        description="HAProxy in front refuses what finds no room; none: on a local cluster, where its binary is",
    )
    max_k: PositiveInt = Field(100, description="largest list a request may ask for")
    max_history: PositiveInt = Field(200, description="longest history a request may send")
    max_exclude: PositiveInt = Field(200, description="most items a request may exclude")
    max_feedback: PositiveInt = Field(500, description="most events of one batch of feedback")
    max_body_bytes: PositiveInt = 1_000_000
    max_filter_items: PositiveInt = Field(1000, description="longest list of items that a filter may allow")
    max_found: PositiveInt = Field(100, description="most items or users of one search")
    max_text: int = Field(500, ge=1, le=2000, description="most characters of an instruction")
    max_picture_bytes: PositiveInt = Field(3_000_000, description="largest picture of an instruction, encoded")
    max_picture_pixels: PositiveInt = Field(4_000_000, description="largest picture of an instruction, decoded")
    max_ongoing_of_client: PositiveInt = Field(
        128, description="requests of one client (key, else address) at a time; further ones get 429"
    )
    store_url: str | None = Field(
        None,
        description="postgresql://user@host/database of the feedback store; none: a SQLite file in the run's folder",
    )
    api_keys: tuple[str, ...] = Field((), description="env:NAME or file:PATH, each of keys one a line; none: no key")
    batch_size: PositiveInt = 32
    batch_wait_s: NonNegativeFloat = 0.005
    replicas: PositiveInt = Field(1, description="of the recommender, the fewest")
    max_replicas: PositiveInt | None = Field(None, description="of the recommender, by load; none: no autoscaling")
    max_ongoing_requests: PositiveInt = Field(64, description="of a replica of the recommender")
    max_queued_requests: NonNegativeInt = Field(64, description="for the recommender; further ones get 503")
    request_timeout_s: PositiveFloat = Field(30.0, description="of a list; then its work is cancelled")
    instruction_timeout_s: PositiveFloat = Field(180.0, description="of an instruction, which may create a picture")
    drain_s: PositiveFloat = Field(20.0, description="longest wait for requests in flight when a replica ends")
    cpus_per_replica: PositiveFloat = Field(0.5, description="of the recommender")
    content: bool | None = Field(
        None,
        description="instructor, editor, creator and fidelity beside the recommender; none: where their weights are",
    )
    ingress: PartSettings = PartSettings()
    instructor: PartSettings = PartSettings(cpus=0.2)
    creator: PartSettings = PartSettings(cpus=0.5, max_ongoing_requests=1, max_queued_requests=4)
    editor: PartSettings = PartSettings(cpus=0.2, max_ongoing_requests=1, max_queued_requests=4)
    fidelity: PartSettings = PartSettings(cpus=0.3)
    autoscaling: AutoscalingSettings = AutoscalingSettings()
    catalogs: dict[str, str] = Field(
        default_factory=dict, description="name -> directory of a bundle, served beside the run's own catalog"
    )
    bundles_in_memory: PositiveInt = Field(4, description="of a replica: catalogs, canaries and those to roll back to")
    watch: bool = Field(False, description="swap to a newer bundle of the run when there is one")
    cached_lists: NonNegativeInt = Field(1024, description="lists that a replica keeps for equal requests")
    canary_errors: PositiveInt = Field(3, description="failed requests after which a new bundle is rolled back")

    @field_validator("catalogs")
    @classmethod
    def _names(cls, catalogs: dict[str, str]) -> dict[str, str]:
        for name in catalogs:
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", name) or name == "default":
                raise ValueError(
                    f"serve.catalogs: {name!r}; write a name of a-z, 0-9 and -, other than 'default', the run's own"
                )
        return catalogs

    @field_validator("store_url")
    @classmethod
    def _no_secret(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            secret = parts.password is not None or "password" in parse_qs(parts.query)
        except ValueError:
            raise ValueError("serve.store_url: it is no URL; write postgresql://user@host/database") from None
        if parts.scheme != "postgresql":
            raise ValueError(
                f"serve.store_url: scheme {parts.scheme!r} is not 'postgresql'; write postgresql://user@host/database"
            )
        if secret:  # settings are written into the run, in plain text
            raise ValueError("serve.store_url: it holds a password; give that by PGPASSWORD or ~/.pgpass instead")
        return url

    @field_validator("api_keys")
    @classmethod
    def _references(cls, references: tuple[str, ...]) -> tuple[str, ...]:
        for place, reference in enumerate(references, 1):
            if not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", reference):  # it may be a key: not told
                raise ValueError(
                    f"serve.api_keys: entry {place} does not say where keys are; write env:NAME or file:PATH"
                )
        return references
