"""KServe's own client against a server, case by case. Run in an environment of its own, see test_kserve.py.

    python kserve_client.py '{"rest": "host:port", "grpc": "host:port", "datatypes": {"FP32": [1.5, ...], ...}}'

prints {case: null or what went wrong}.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import traceback
from typing import Any

# KServe's client knows no BF16, and FP16 in binary only.
DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES",
)  # fmt: skip
FORMS = {
    "rest-json": [one for one in DATATYPES if one != "FP16"],
    "rest-binary": DATATYPES,
    "rest-binary-both-ways": DATATYPES,
    "grpc-raw": DATATYPES,
    "grpc-typed": [one for one in DATATYPES if one != "FP16"],
}
CASES = [
    *(f"{transport}-{what}" for transport, what in itertools.product(("rest", "grpc"), ("ready", "unknown", "two"))),
    *(f"{form}-{datatype}" for form, datatypes in FORMS.items() for datatype in datatypes),
]


class Suite:
    def __init__(self, target: dict[str, Any]) -> None:
        from kserve import InferenceGRPCClient, InferenceRESTClient, RESTConfig

        self.base = f"http://{target['rest']}"
        self.values = target["datatypes"]
        self.rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=20))
        self.grpc = InferenceGRPCClient(target["grpc"], timeout=20) if target["grpc"] else None

    async def infer(self, transport: str, request: Any, model: str) -> Any:
        if transport == "rest":
            return await self.rest.infer(self.base, request, model_name=model)
        return await self.grpc.infer(request)

    async def ready(self, transport: str) -> None:
        if transport == "rest":
            assert await self.rest.is_server_live(self.base) and await self.rest.is_server_ready(self.base)
            assert await self.rest.is_model_ready(self.base, "simple")
        else:
            assert await self.grpc.is_server_live() and await self.grpc.is_server_ready()
            assert await self.grpc.is_model_ready("simple")

    async def unknown(self, transport: str) -> None:
        import grpc
        import httpx

        try:
            await self.infer(transport, self.request("other", "FP32", [1.0], binary=True), "other")
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 404 and "other" in str(error), error
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND, error
        else:
            raise AssertionError("an unknown model answered")

    async def two(self, transport: str) -> None:
        import numpy as np
        from kserve import InferInput, InferRequest

        first, second = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), 3, np.int32)
        inputs = []
        for name, values in (("INPUT0", first), ("INPUT1", second)):
            one = InferInput(name=name, shape=[1, 16], datatype="INT32")
            one.set_data_from_numpy(values, binary_data=True)
            inputs.append(one)
        answer = await self.infer(transport, InferRequest("simple", inputs, request_id="my id"), "simple")
        assert answer.id == "my id", answer.id
        assert answer.get_output_by_name("OUTPUT0").as_numpy().tolist() == (first + second).tolist()
        assert answer.get_output_by_name("OUTPUT1").as_numpy().tolist() == (first - second).tolist()

    def request(self, model: str, datatype: str, values: list[Any], *, binary: bool, both: bool = False) -> Any:
        import numpy as np
        from kserve import InferInput, InferRequest
        from kserve.utils.numpy_codec import to_np_dtype

        dtype = np.object_ if datatype == "BYTES" else to_np_dtype(datatype)
        x = InferInput(name="x", shape=[1, len(values)], datatype=datatype)
        x.set_data_from_numpy(np.array([values], dtype), binary_data=binary)
        return InferRequest(model, [x], parameters={"binary_data_output": True} if both else None)

    async def datatype(self, form: str, datatype: str) -> None:
        values = self.values[datatype]
        transport, _, how = form.partition("-")
        request = self.request(
            datatype, datatype, values, binary=how not in ("json", "typed"), both=how == "binary-both-ways"
        )
        answer = await self.infer(transport, request, datatype)
        (output,) = answer.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("y", datatype, [1, len(values)])
        found = output.as_numpy().ravel().tolist()
        if datatype == "BYTES":
            found = [one.decode() if isinstance(one, bytes) else one for one in found]
        import numpy as np
        from kserve.utils.numpy_codec import to_np_dtype

        wanted = values if datatype == "BYTES" else np.array(values, to_np_dtype(datatype)).tolist()
        assert found == wanted, (found, wanted)

    async def run(self, case: str) -> None:
        transport, _, what = case.partition("-")
        if what in ("ready", "unknown", "two"):
            await getattr(self, what)(transport)
            return
        form, _, datatype = case.rpartition("-")
        await self.datatype(form, datatype)


async def main(target: dict[str, Any]) -> dict[str, str | None]:
    suite = Suite(target)
    results: dict[str, str | None] = {}
    for case in CASES:
        try:
            await asyncio.wait_for(suite.run(case), 20)
            results[case] = None
        except Exception:
            results[case] = traceback.format_exc(limit=-3)
    return results


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
