#include "federated/transport/frames.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpc/slice.h>

#include <algorithm>
#include <array>
#include <future>

namespace conclave {
namespace {

using federated::Chunk;
using federated::UpdateHeader;
using federated::UploadPart;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

constexpr std::uint32_t tag_of(int field, WireFormatLite::WireType type) {
  return WireFormatLite::MakeTag(field, type);
}
constexpr auto kOffset = tag_of(Chunk::kOffsetFieldNumber, WireFormatLite::WIRETYPE_VARINT);
constexpr auto kData = tag_of(Chunk::kDataFieldNumber, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
constexpr auto kChecksum = tag_of(Chunk::kChecksumFieldNumber, WireFormatLite::WIRETYPE_FIXED64);
constexpr auto kHeader = tag_of(UploadPart::kHeaderFieldNumber, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
constexpr auto kChunk = tag_of(UploadPart::kChunkFieldNumber, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);

constexpr std::size_t kBlock = 128 * 1024;  // bytes
constexpr std::size_t kMostSlices = 4096;   // per message; a chunk usually has some hundreds

// A range of bytes of a message.
struct Extent {
  std::size_t begin = 0, size = 0;
};

// The fields before a chunk's data, which is the last field.
class Head {
 public:
  Head(const ChunkFrame& frame, std::size_t size, bool in_upload) {
    put([&](std::uint8_t* at) {
      at = CodedOutputStream::WriteVarint32ToArray(kOffset, at);
      at = CodedOutputStream::WriteVarint64ToArray(static_cast<std::uint64_t>(frame.offset), at);
      at = CodedOutputStream::WriteVarint32ToArray(kChecksum, at);
      at = CodedOutputStream::WriteLittleEndian64ToArray(frame.checksum, at);
      at = CodedOutputStream::WriteVarint32ToArray(kData, at);
      return CodedOutputStream::WriteVarint32ToArray(static_cast<std::uint32_t>(size), at);
    });
    if (!in_upload) return;
    const Head chunk = *this;
    end_ = 0;
    put([&](std::uint8_t* at) {
      at = CodedOutputStream::WriteVarint32ToArray(kChunk, at);
      at = CodedOutputStream::WriteVarint32ToArray(static_cast<std::uint32_t>(chunk.end_ + size), at);
      return std::copy_n(chunk.bytes_.data(), chunk.end_, at);
    });
  }
  grpc::Slice slice() const { return {bytes_.data(), end_}; }

 private:
  template <class Write>
  void put(Write write) {
    end_ = static_cast<std::size_t>(write(bytes_.data()) - bytes_.data());
  }
  std::array<std::uint8_t, 48> bytes_{};  // enough for all numbers at their greatest length
  std::size_t end_ = 0;
};

grpc::Status serialize(const ChunkFrame& frame, bool in_upload, grpc::ByteBuffer& buffer) {
  std::size_t size = 0;
  for (const grpc::Slice& slice : frame.data) size += slice.size();
  if (size > kChunkBytes) return {grpc::StatusCode::INTERNAL, "a chunk that is too large"};
  std::vector<grpc::Slice> slices{Head(frame, size, in_upload).slice()};
  slices.insert(slices.end(), frame.data.begin(), frame.data.end());
  buffer = grpc::ByteBuffer(slices.data(), slices.size());
  return grpc::Status::OK;
}

// Only a hostile sender repeats a field. The last one counts, as with protobuf's classes.
bool read(CodedInputStream& in, ChunkFrame& frame, Extent& data) {
  while (const std::uint32_t tag = in.ReadTag()) {
    std::uint64_t offset = 0;
    int size = 0;
    switch (tag) {
      case kOffset:
        if (!in.ReadVarint64(&offset)) return false;
        frame.offset = static_cast<std::int64_t>(offset);
        break;
      case kChecksum:
        if (!in.ReadLittleEndian64(&frame.checksum)) return false;
        break;
      case kData:
        if (!in.ReadVarintSizeAsInt(&size)) return false;
        data = {static_cast<std::size_t>(in.CurrentPosition()), static_cast<std::size_t>(size)};
        if (!in.Skip(size)) return false;
        break;
      default:
        if (!WireFormatLite::SkipField(&in, tag)) return false;
    }
  }
  return in.ConsumedEntireMessage();
}

// Calls f with a stream over the message inside; f must read all of it.
template <class F>
bool read_inside(CodedInputStream& in, F f) {
  int size = 0;
  if (!in.ReadVarintSizeAsInt(&size)) return false;
  const CodedInputStream::Limit limit = in.PushLimit(size);
  if (in.BytesUntilLimit() != size || !f(in) || in.BytesUntilLimit() != 0) return false;
  in.PopLimit(limit);
  return true;
}

bool read(CodedInputStream& in, UploadFrame& frame, Extent& data) {
  while (const std::uint32_t tag = in.ReadTag()) {
    bool good = true;
    if (tag == kHeader) {
      if (!std::holds_alternative<UpdateHeader>(frame)) frame.emplace<UpdateHeader>();
      good = read_inside(in, [&](CodedInputStream& inside) {
        return std::get<UpdateHeader>(frame).MergeFromCodedStream(&inside) && inside.ConsumedEntireMessage();
      });
    } else if (tag == kChunk) {
      if (!std::holds_alternative<ChunkFrame>(frame)) frame.emplace<ChunkFrame>(), data = {};
      good = read_inside(
          in, [&](CodedInputStream& inside) { return read(inside, std::get<ChunkFrame>(frame), data); });
    } else {
      good = WireFormatLite::SkipField(&in, tag);
    }
    if (!good) return false;
  }
  return in.ConsumedEntireMessage();
}

// The bytes of `extent`, as parts of the message's slices, without a copy.
void cut(const std::vector<grpc::Slice>& message, Extent extent, std::vector<grpc::Slice>& out) {
  for (const grpc::Slice& slice : message) {
    const std::size_t begin = std::min(extent.begin, slice.size());
    const std::size_t size = std::min(extent.size, slice.size() - begin);
    if (size > 0) out.push_back(slice.sub(begin, begin + size));
    extent = {extent.begin - begin, extent.size - size};
  }
}

// The message's slices without a copy. But if a peer has cut it into so many that the slices would take more
// memory than their contents, one slice with a copy.
grpc::Status slices_of(const grpc::ByteBuffer& buffer, std::vector<grpc::Slice>& slices) {
  grpc::Status status = buffer.Dump(&slices);
  if (!status.ok() || slices.size() <= kMostSlices) return status;
  grpc::Slice whole;
  status = buffer.DumpToSingleSlice(&whole);
  slices = std::vector<grpc::Slice>{whole};
  return status;
}

// gRPC forgets the buffer that it passes for reading, even after an error, so `buffer` must be cleared here.
template <class Frame>
grpc::Status deserialize(grpc::ByteBuffer& buffer, Frame& frame, ChunkFrame* (*chunk_of)(Frame&)) {
  frame = {};
  std::vector<grpc::Slice> message;
  grpc::Status status = slices_of(buffer, message);
  Extent data;
  if (status.ok()) {
    grpc::ProtoBufferReader reader(&buffer);
    CodedInputStream in(&reader);
    if (!reader.status().ok() || !read(in, frame, data))
      status = {grpc::StatusCode::INTERNAL, "a message that cannot be read"};
  }
  buffer.Clear();
  ChunkFrame* const chunk = chunk_of(frame);
  if (status.ok() && chunk != nullptr) cut(message, data, chunk->data);
  return status;
}

}  // namespace

std::vector<std::string_view> ChunkFrame::pieces() const {
  std::vector<std::string_view> pieces;
  pieces.reserve(data.size());
  for (const grpc::Slice& slice : data)
    pieces.emplace_back(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return pieces;
}

ChunkFrame read_chunk(const OutgoingFile& file, std::uint64_t offset) {
  const std::size_t size = file.chunk_bytes(offset);
  ChunkFrame frame{.offset = static_cast<std::int64_t>(offset)};
  const grpc_slice memory = grpc_slice_malloc(size);
  frame.data.emplace_back(memory, grpc::Slice::STEAL_REF);
  // The slice's begin() returns const bytes, because slices may be shared; this one is not yet.
  auto* const bytes = reinterpret_cast<char*>(const_cast<std::uint8_t*>(frame.data.front().begin()));
  Xxh3 sum;
  for (std::size_t at = 0; at < size; at += kBlock) {  // hashed while the block is in the processor's cache
    const std::size_t some = std::min(kBlock, size - at);
    file.read_at(bytes + at, some, offset + at);
    sum.add({bytes + at, some});
  }
  frame.checksum = sum.checksum();
  return frame;
}

void write_chunks(const OutgoingFile& file, std::uint64_t offset,
                  const std::function<bool(const ChunkFrame&)>& write) {
  const auto begin_reading = [&] {  // in another thread, if the system has one to spare
    return std::async([&file, offset] { return read_chunk(file, offset); });
  };
  bool open = true;
  std::future<ChunkFrame> next;
  if (offset < file.bytes()) next = begin_reading();
  while (open && next.valid()) {
    const ChunkFrame chunk = next.get();
    offset += file.chunk_bytes(offset);
    if (offset < file.bytes()) next = begin_reading();
    open = write(chunk);
  }
}

}  // namespace conclave

namespace grpc {

using conclave::ChunkFrame;
using conclave::UploadFrame;

Status SerializationTraits<ChunkFrame>::Serialize(const ChunkFrame& frame, ByteBuffer* buffer,
                                                  bool* own_buffer) {
  *own_buffer = true;
  return conclave::serialize(frame, false, *buffer);
}

Status SerializationTraits<ChunkFrame>::Deserialize(ByteBuffer* buffer, ChunkFrame* frame) {
  return conclave::deserialize<ChunkFrame>(*buffer, *frame, [](ChunkFrame& chunk) { return &chunk; });
}

Status SerializationTraits<UploadFrame>::Serialize(const UploadFrame& frame, ByteBuffer* buffer,
                                                   bool* own_buffer) {
  *own_buffer = true;
  if (const auto* chunk = std::get_if<ChunkFrame>(&frame)) return conclave::serialize(*chunk, true, *buffer);
  conclave::federated::UploadPart part;
  if (const auto* header = std::get_if<conclave::federated::UpdateHeader>(&frame))
    *part.mutable_header() = *header;
  return SerializationTraits<conclave::federated::UploadPart>::Serialize(part, buffer, own_buffer);
}

Status SerializationTraits<UploadFrame>::Deserialize(ByteBuffer* buffer, UploadFrame* frame) {
  return conclave::deserialize<UploadFrame>(*buffer, *frame,
                                            [](UploadFrame& part) { return std::get_if<ChunkFrame>(&part); });
}

}  // namespace grpc
