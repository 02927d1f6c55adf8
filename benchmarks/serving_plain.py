"""The other side: the same model behind plain FastAPI and uvicorn, one process, one request at a time in the model.

``python benchmarks/serving_plain.py BUNDLE PORT`` serves until it is ended.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def main(bundle: Path, port: int) -> None:
    """Serve."""
    import asyncio

    import torch
    import uvicorn
    from fastapi import FastAPI

    from genrec.recommender import Recommender, RecommendRequest

    torch.set_num_threads(1)
    model, worker, api = Recommender.load(bundle), ThreadPoolExecutor(1), FastAPI()

    @api.post("/v1/recommendations")
    async def recommendations(body: dict[str, Any]) -> dict[str, Any]:
        history = body.get("history")
        request = RecommendRequest(body.get("user_id"), None if history is None else tuple(history), body["k"])
        (items,) = await asyncio.get_running_loop().run_in_executor(worker, model.recommend_batch, [request])
        return {"bundle_version": model.version, "items": [item.model_dump() for item in items]}

    @api.get("/v1/health")
    async def health() -> dict[str, str]:
        return {"status": "ready"}

    uvicorn.run(api, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
