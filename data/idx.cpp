#include "data/idx.h"

#include <fmt/ranges.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>

#include "core/error.h"

namespace conclave {
namespace {

// Sequential reader of a file's bytes, decompressed if the file is gzip.
class Source {
 public:
  Source(std::string_view bytes, std::string_view name)
      : bytes_(bytes), name_(name), packed_(bytes.starts_with("\x1F\x8B")) {
    if (packed_) require(inflateInit2(&stream_, 16 + MAX_WBITS) == Z_OK, "{}: out of memory", name);
  }
  ~Source() {
    if (packed_) inflateEnd(&stream_);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  /// Upper bound on the bytes, known without reading them: deflate expands one byte to at most 1,032.
  std::uint64_t most() const { return bytes_.size() * (packed_ ? 1032u : 1u); }

  /// Reads up to `count` bytes into `to` and returns how many there were.
  std::size_t read(std::uint8_t* to, std::size_t count) {
    const std::size_t done = packed_ ? inflate_into(to, count) : std::min(count, bytes_.size() - at_);
    if (!packed_) std::copy_n(bytes_.data() + at_, done, to), at_ += done;
    unpacked_ += done;
    return done;
  }

  /// Whether the whole file was read; a gzip stream may be followed by other bytes.
  bool at_end() const { return at_ == bytes_.size(); }

  /// The current position, for messages.
  std::string place() const {
    return packed_ ? fmt::format("byte {} (unpacked, {})", at_, unpacked_) : fmt::format("byte {}", at_);
  }

 private:
  std::size_t inflate_into(std::uint8_t* to, std::size_t count) {
    constexpr std::size_t most = std::numeric_limits<uInt>::max();  // zlib's limit per call
    std::size_t done = 0;
    while (done < count && !ended_) {
      const std::size_t in = std::min(bytes_.size() - at_, most), out = std::min(count - done, most);
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes_.data() + at_));  // zlib only reads
      stream_.avail_in = static_cast<uInt>(in);
      stream_.next_out = to + done;
      stream_.avail_out = static_cast<uInt>(out);
      const int status = inflate(&stream_, Z_NO_FLUSH);
      at_ += in - stream_.avail_in;
      done += out - stream_.avail_out;
      require(status != Z_BUF_ERROR, "{}: gzip's data end too early, at {}; the file is truncated", name_,
              place());
      require(status == Z_OK || status == Z_STREAM_END, "{}: gzip finds it damaged at {} ({})", name_,
              place(), stream_.msg != nullptr ? stream_.msg : "no reason given");
      ended_ = status == Z_STREAM_END;
    }
    return done;
  }

  std::string_view bytes_, name_;
  bool packed_, ended_ = false;
  z_stream stream_{};
  std::size_t at_ = 0;          // position in `bytes_`
  std::uint64_t unpacked_ = 0;  // decompressed bytes so far
};

}  // namespace

IdxArray parse_idx(std::string_view bytes, std::string_view name) {
  Source source(bytes, name);
  const auto word = [&] {
    std::array<std::uint8_t, 4> read{};
    const bool whole = source.read(read.data(), 4) == 4;
    require(whole, "{}: ends at {}, within the header of an idx file", name, source.place());
    return read;
  };
  const auto magic = word();
  require(magic[0] == 0 && magic[1] == 0, "{}: not an idx file; those begin with two bytes of 0", name);
  require(magic[2] == 0x08, "{}: byte 2 says values of type 0x{:02X}; only unsigned bytes, 0x08, can be read",
          name, magic[2]);
  require(magic[3] >= 1 && magic[3] <= 3, "{}: byte 3 says {} extents; 1 to 3 can be read", name, magic[3]);
  IdxArray array;
  std::uint64_t size = 1;
  for (int i = 0; i < magic[3]; ++i) {
    const auto digits = word();
    const std::uint32_t extent = std::uint32_t{digits[0]} << 24 | std::uint32_t{digits[1]} << 16 |
                                 std::uint32_t{digits[2]} << 8 | digits[3];
    array.extents.push_back(extent);
    require(extent >= 1 && size <= source.most() / extent,
            "{}: extents {} cannot be right for a file of {} bytes", name, fmt::join(array.extents, " x "),
            bytes.size());
    size *= extent;
  }
  array.values.resize(size);
  const std::size_t count = source.read(array.values.data(), array.values.size());
  require(count == size, "{}: ends at {}, after {} of {} values; the file is truncated", name, source.place(),
          count, fmt::join(array.extents, " x "));
  const std::string end = source.place();
  std::uint8_t byte = 0;
  const bool more = source.read(&byte, 1) == 1 || !source.at_end();
  require(!more, "{}: goes on at {}, after all of {} values", name, end, fmt::join(array.extents, " x "));
  return array;
}

}  // namespace conclave
