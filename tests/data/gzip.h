// gzip files for tests.
#pragma once

#include <zlib.h>

#include <string>

#include "core/error.h"

namespace conclave {

inline std::string gzip(std::string_view bytes) {
  z_stream stream{};
  require(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 9, Z_DEFAULT_STRATEGY) == Z_OK, "gzip");
  std::string packed(deflateBound(&stream, bytes.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  require(deflate(&stream, Z_FINISH) == Z_STREAM_END, "gzip");
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

}  // namespace conclave
