// Messages with chunks of files, as gRPC transports them: byte for byte protocol.proto's Chunk and
// UploadPart, but a chunk's data remains in the slices in which it was received or will be sent. protobuf's
// own classes would copy it into a string, and out of it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <variant>
#include <vector>

#include "federated/file_transfer.h"
#include "protocol.pb.h"

namespace conclave {

struct ChunkFrame {
  std::int64_t offset = 0;
  std::uint64_t checksum = 0;
  std::vector<grpc::Slice> data = {};

  std::vector<std::string_view> pieces() const;
};

/// The chunk of `file` that begins at `offset`.
ChunkFrame read_chunk(const OutgoingFile& file, std::uint64_t offset);

/// Calls write() for each chunk of `file` from `offset` on, until it returns false, and reads the next chunk
/// meanwhile. Takes a thread and the memory of another chunk, which a coordinator does not have for each
/// site.
void write_chunks(const OutgoingFile& file, std::uint64_t offset,
                  const std::function<bool(const ChunkFrame&)>& write);

/// std::monostate: the message has none of its parts.
using UploadFrame = std::variant<std::monostate, federated::UpdateHeader, ChunkFrame>;

}  // namespace conclave

namespace grpc {

template <>
class SerializationTraits<conclave::ChunkFrame> {
 public:
  static Status Serialize(const conclave::ChunkFrame& frame, ByteBuffer* buffer, bool* own_buffer);
  static Status Deserialize(ByteBuffer* buffer, conclave::ChunkFrame* frame);
};

template <>
class SerializationTraits<conclave::UploadFrame> {
 public:
  static Status Serialize(const conclave::UploadFrame& frame, ByteBuffer* buffer, bool* own_buffer);
  static Status Deserialize(ByteBuffer* buffer, conclave::UploadFrame* frame);
};

}  // namespace grpc
