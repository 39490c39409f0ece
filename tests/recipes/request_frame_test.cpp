#include "recipes/service/request_frame.h"

#include <catch2/catch.hpp>

namespace conclave::service {
namespace {

using State = RequestFrame::State;

int refusal(const std::string& bytes, const FrameLimits& limits = {}) {
  RequestFrame frame(limits);
  return frame.look(bytes) == State::refused ? frame.status() : 0;
}

TEST_CASE("a request is complete with the last byte of its body", "[service]") {
  const std::string request = "POST /v1/classify HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 5 \r\n\r\nabcde";
  RequestFrame frame({});
  for (std::size_t size = 1; size < request.size(); ++size)
    REQUIRE(frame.look(std::string_view(request).substr(0, size)) == State::incomplete);
  REQUIRE(frame.look(request) == State::complete);
  CHECK(frame.size() == request.size());
  RequestFrame at_once({});
  REQUIRE(at_once.look(request + "GET / HTTP/1.1\r\nHost: a\r\n") == State::complete);
  CHECK(at_once.size() == request.size());
  RequestFrame without_body({});
  REQUIRE(without_body.look("GET / HTTP/1.1\r\nHost: a\r\n\r\n") == State::complete);
  CHECK(without_body.size() == 27);
}

TEST_CASE("the head of a request can be read before the body arrives", "[service]") {
  RequestFrame frame({});
  const std::string head =
      "POST /v1/classify?format=csv HTTP/1.1\r\nHost: a\r\nauthorization:  Bearer abc \r\nContent-Length: "
      "3\r\n\r\n";
  CHECK(frame.look(head.substr(0, 60)) == State::incomplete);
  CHECK(frame.head() == nullptr);
  CHECK(frame.look(head) == State::incomplete);
  REQUIRE(frame.head() != nullptr);
  CHECK(frame.head()->method == "POST");
  CHECK(frame.head()->path == "/v1/classify");
  CHECK(frame.head()->authorization == "Bearer abc");
  CHECK(frame.head()->forwarded.empty());
  for (const auto& [target, path] : {std::pair("/%761/classif%79", "/v1/classify"),
                                     {"/%", "/%"},
                                     {"/%4", "/%4"},
                                     {"/%zz", "/%zz"},
                                     {"/%41?%42", "/A"},
                                     {"http://b.example:80/v1?a=%41", "/v1"},
                                     {"HTTPS://b.example", "/"},
                                     {"http://b.example?a", "/"}}) {
    RequestFrame asked({});
    REQUIRE(asked.look(std::string("GET ") + target + " HTTP/1.1\r\nHost: a\r\n\r\n") == State::complete);
    CHECK(std::string(asked.head()->path) == path);
  }
  const auto closes = [](const std::string& version, const std::string& connection) {
    RequestFrame asked({});
    REQUIRE(asked.look("GET / " + version + "\r\nHost: a\r\n" + connection + "\r\n") == State::complete);
    return asked.head()->closes;
  };
  CHECK_FALSE(closes("HTTP/1.1", ""));
  CHECK_FALSE(closes("HTTP/1.1", "Connection: keep-alive, TE\r\n"));
  CHECK(closes("HTTP/1.1", "Connection: Close\r\n"));
  CHECK(closes("HTTP/1.1", "connection: TE , close\r\n"));
  CHECK(closes("HTTP/1.1", "Connection: close\r\nConnection: keep-alive\r\n"));
  CHECK(closes("HTTP/1.0", ""));
  CHECK(closes("HTTP/1.0", "Connection: Keep-Alive\r\n"));
}

TEST_CASE("a request may name a whole URL, whose host then counts", "[service]") {
  for (const auto& [url, target] : {std::pair("http://b.example:80/v1?a=%41", "/v1?a=%41"),
                                    {"HTTPS://b.example:80", "/"},
                                    {"http://b.example:80?a", "/?a"}}) {
    RequestFrame frame({});
    REQUIRE(frame.look(std::string("GET ") + url + " HTTP/1.1\r\nHost: a\r\n\r\n") == State::complete);
    CHECK(frame.head()->target == target);
    CHECK(frame.head()->host == "b.example:80");
  }
}

TEST_CASE("an HTTP/1.1 request has one Host; empty lines before it are ignored", "[service]") {
  const std::string host = "Host: a\r\n", get = "GET / HTTP/1.1\r\n", old = "GET / HTTP/1.0\r\n";
  CHECK(refusal(get + host + "\r\n") == 0);
  CHECK(refusal(get + "Host:\r\n\r\n") == 0);
  CHECK(refusal(get + "\r\n") == 400);
  CHECK(refusal(get + host + "hOST: a\r\n\r\n") == 400);
  CHECK(refusal(old + "\r\n") == 0);
  CHECK(refusal(old + host + host + "\r\n") == 400);
  CHECK(RequestFrame::empty_lines("\r\n\r\nGET") == 4);
  CHECK(RequestFrame::empty_lines("\r\n\r") == 2);
  CHECK(RequestFrame::empty_lines("GET\r\n") == 0);
  RequestFrame torn({});
  CHECK(torn.look("\r") == State::incomplete);
  CHECK(torn.look(get + host + "\r\n") == State::complete);
  CHECK(refusal("\rGET") == 400);
}

TEST_CASE("X-Forwarded-For is known for refused requests, in any order of headers", "[service]") {
  const std::string proxied = "X-Forwarded-For: 192.0.2.7\r\nx-forwarded-for: 10.0.0.1\r\n";
  for (const auto& [wrong, status] : {std::pair("Content-Encoding: gzip\r\n", 415),
                                      {"Transfer-Encoding: chunked\r\n", 411},
                                      {"Expect: much\r\n", 417},
                                      {"Content-Length: 99999999999999999999\r\n", 413},
                                      {"Content-Length: 99999999\r\n", 413},
                                      {"Content-Length: 1\r\nContent-Length: 2\r\n", 400}})
    for (const std::string& headers : {wrong + proxied, proxied + wrong}) {
      RequestFrame frame({});
      REQUIRE(frame.look("POST / HTTP/1.1\r\nHost: a\r\n" + headers + "\r\n") == State::refused);
      CHECK(frame.status() == status);
      CHECK(frame.head()->forwarded == "192.0.2.7,10.0.0.1");
    }
  RequestFrame torn({});
  REQUIRE(torn.look("POST / HTTP/1.1\r\nHost: a\r\n" + proxied + "no header\r\n\r\n") == State::refused);
  CHECK(torn.head()->forwarded.empty());  // the proxy's own entry may come later
}

TEST_CASE("Expect: 100-continue is answered once", "[service]") {
  RequestFrame frame({});
  const std::string head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
  CHECK(frame.look(head.substr(0, 40)) == State::incomplete);
  CHECK_FALSE(frame.wants_to_be_told());
  CHECK(frame.look(head) == State::incomplete);
  CHECK(frame.wants_to_be_told());
  CHECK_FALSE(frame.wants_to_be_told());
  CHECK(frame.look(head + "abc") == State::complete);
}

TEST_CASE("invalid and too large requests are refused as early as possible", "[service]") {
  const std::string post = "POST / HTTP/1.1\r\nHost: a\r\n";
  CHECK(refusal("\x16\x03\x01 a TLS client") == 400);
  CHECK(refusal("GET / HTTP/1.1\r\nHost: a\r\nno header\r\n\r\n") == 400);
  CHECK(refusal("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n folded\r\n\r\n") == 400);
  CHECK(refusal("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n") == 400);
  for (const std::string name : {"Content-Length\t", "Content Length", "Content-Length\v", "(a)", "\x80", ""})
    CHECK(refusal(post + name + ": 40\r\n\r\n") == 400);  // other software may read these as Content-Length
  CHECK(refusal("HELLO\r\n\r\n") == 400);
  for (const std::string line : {"GET HTTP/1.1", "G HTTP/1.1", "GET HTTP/1.0"})
    CHECK(refusal(line + "\r\n\r\n") == 400);
  CHECK(refusal("GET / HTTP/2.0\r\n\r\n") == 505);
  CHECK(refusal(post + "Content-Length: 5x\r\n\r\n") == 400);
  CHECK(refusal(post + "Content-Length: -1\r\n\r\n") == 400);
  CHECK(refusal(post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n") == 400);
  CHECK(refusal(post + "Content-Length: 99999999999999999999999\r\n\r\n") == 413);
  CHECK(refusal(post + "Content-Length: 11\r\n\r\n", {.body = 10}) == 413);
  CHECK(refusal(post + "Content-Length: 10\r\n\r\n", {.body = 10}) == 0);
  CHECK(refusal(post + "Transfer-Encoding: chunked\r\n\r\n") == 411);
  CHECK(refusal(post + "Expect: wonders\r\n\r\n") == 417);
  for (const std::string encoding : {"gzip", "br", "deflate", "identity, gzip", "identit%79", ""})
    CHECK(refusal(post + "content-ENCODING: " + encoding + "\r\nContent-Length: 5\r\n\r\n") == 415);
  CHECK(refusal(post + "Content-Encoding: Identity\r\n\r\n") == 0);
  CHECK(refusal(post + "A: " + std::string(9000, 'b') + "\r\n\r\n") == 431);
  CHECK(refusal(post + "A: " + std::string(200, 'b'), {.head = 100}) == 431);
  CHECK(refusal(post + "A: " + std::string(200, 'b') + "\r\n\r\n", {.head = 100}) == 431);
}

}  // namespace
}  // namespace conclave::service
