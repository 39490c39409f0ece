// Protocol Buffers' wire format, as far as writing a file takes it
// (https://protobuf.dev/programming-guides/encoding): fields one after another, each a tag of its number and
// its kind, and a value. That is less than linking the library, which SentencePiece here has an older one of.
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
  /// Text, raw bytes, or another message.
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
