"""A server that speaks S3's protocol, with one bucket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgratchet.backups import (
    store,
)
from pgratchet.backups.store import Store

CANARY = "canary-9f2c"


KEYS = {"access_key_id": "someone", "secret_access_key": CANARY, "region": "us-east-1"}


@dataclass
class S3Server:
    """A server with one bucket, and a client that is independent of the package."""

    endpoint: str
    client: Any
    bucket: str = "bucket"

    def at(self, prefix: str, **options: str) -> Store:
        store_options = {**KEYS, "endpoint": self.endpoint, **options}
        return store.open_store(f"s3://{self.bucket}/{prefix}", store_options, Path("nowhere"), "env", "target")

    def names(self) -> list[str]:
        return [each["Key"] for each in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", ())]

    def body(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)
