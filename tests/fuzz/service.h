// The fuzz target of the service: bytes that come by HTTP, as requests and as bodies.
#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

#include "recipes/service/inputs.h"
#include "recipes/service/request_frame.h"

namespace conclave {

/// The first byte chooses what is checked: that a request ends at the same byte when it comes in pieces, or
/// that a JSON or form body for a task is read or refused with a 4xx status.
inline void fuzz_service(std::string_view bytes) {
  using namespace service;
  if (bytes.empty()) return;
  const auto kind = static_cast<unsigned char>(bytes.front());
  bytes.remove_prefix(1);
  if (kind % 3 == 0) {
    const FrameLimits limits{.head = 512, .body = 1024};
    RequestFrame whole(limits), pieces(limits);
    const RequestFrame::State state = whole.look(bytes);
    RequestFrame::State last = RequestFrame::State::incomplete;
    for (std::size_t size = 1; size <= bytes.size() && last == RequestFrame::State::incomplete; ++size)
      last = pieces.look(bytes.substr(0, size));
    if (state == RequestFrame::State::complete && whole.size() > bytes.size())
      throw std::logic_error("a request longer than its bytes");
    if (last == RequestFrame::State::complete && (state != last || whole.size() != pieces.size()))
      throw std::logic_error("a request ends elsewhere in pieces");
    return;
  }
  // A model of images alone, because the tokenizer is not tested here.
  static const service::Inputs inputs({.max_length = 16, .image = {5, 3, 3}, .classifies_images = true});
  const Body body{.type = kind % 3 == 1 ? "application/json" : "multipart/form-data; boundary=b",
                  .bytes = bytes};
  try {
    const Query query = inputs.read(kind / 3 % 2 == 0 ? TaskKind::classify : TaskKind::caption, body);
    if (query.pixels.size() != 45) throw std::logic_error("an image of another size than the model's");
  } catch (const Refusal& refusal) {
    if (refusal.status < 400 || refusal.status > 499) throw std::logic_error("a status that blames nobody");
  }
}

}  // namespace conclave
