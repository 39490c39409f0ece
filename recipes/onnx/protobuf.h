// The part of Protocol Buffers' wire format that writing a file needs
// (https://protobuf.dev/programming-guides/encoding): a sequence of fields, each a tag (field number and wire
// type) and a value. This code is shorter than linking the protobuf library, of which SentencePiece already
// brings an older version.
#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

namespace conclave::onnx {

class Message {
 public:
  void integer(int field, std::int64_t value) {
    tag(field, 0);
    varint(static_cast<std::uint64_t>(value));
  }
  void real(int field, float value) {
    tag(field, 5);
    const auto bits = std::bit_cast<std::uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) bytes_ += static_cast<char>(bits >> shift);
  }
  /// A length-delimited field: text, raw bytes, or an encoded message.
  void bytes(int field, std::string_view value) {
    tag(field, 2);
    varint(value.size());
    bytes_ += value;
  }
  void message(int field, const Message& value) { bytes(field, value.encoded()); }

  const std::string& encoded() const { return bytes_; }

 private:
  void tag(int field, unsigned kind) { varint(static_cast<std::uint64_t>(field) << 3 | kind); }
  void varint(std::uint64_t value) {
    for (; value >= 128; value >>= 7) bytes_ += static_cast<char>(value | 128);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

}  // namespace conclave::onnx
