"""The Open Inference Protocol over gRPC: an extra, imported only when EDGEWARD_GRPC_PORT is set.

`pip install edgeward-runtime[grpc]` brings grpcio and protobuf. The package is not called grpc, which it would hide.
"""
