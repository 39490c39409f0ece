#include "recipes/service/multipart.h"

#include <catch2/catch.hpp>
#include <string>

namespace conclave::service {
namespace {

using Parts = std::vector<std::pair<std::string, std::string>>;

Parts parts_of(std::string_view body, std::string_view boundary = "b") {
  Parts parts;
  for (const FormPart& part : form_parts(body, boundary)) parts.emplace_back(part.name, part.content);
  return parts;
}

std::string refusal_of(std::string_view body) {
  try {
    form_parts(body, "b");
    return "";
  } catch (const Refusal& refusal) {
    CHECK(refusal.status == 400);
    return refusal.code;
  }
}

constexpr std::string_view kText = "Content-Disposition: form-data; name=\"text\"\r\n\r\n";

std::string of(std::initializer_list<std::string_view> pieces) {
  std::string text;
  for (const std::string_view piece : pieces) text += piece;
  return text;
}

TEST_CASE("the boundary of a form comes from its content type", "[service]") {
  CHECK(form_boundary("multipart/form-data; boundary=abc") == "abc");
  CHECK(form_boundary("Multipart/Form-Data ; charset=utf-8; BOUNDARY=\"a b;c\"") == "a b;c");
  CHECK(form_boundary("multipart/form-data; charset=\"boundary=x\"; boundary=abc") == "abc");
  for (const char* none : {"", "multipart/form-data", "multipart/form-data; boundary=",
                           "multipart/mixed; boundary=a", "multipart/form-data; boundary"})
    CHECK_FALSE(form_boundary(none));
  CHECK_FALSE(form_boundary("multipart/form-data; boundary=" + std::string(71, 'a')));
}

TEST_CASE("the parts of a form are the exact bytes between its boundaries", "[service]") {
  CHECK(parts_of(of({"--b\r\n", kText, "a cat\r\n--b--\r\n"})) == Parts{{"text", "a cat"}});
  CHECK(parts_of(of({"before\r\n--b \t\r\n", kText, "\r\n--b--and after"})) == Parts{{"text", ""}});
  // An image may contain bytes that look like a boundary.
  const std::string bytes = of({"\r\n--bb\r\n--b -", std::string_view("\0\r\n", 3), "\r\n-- b"});
  const std::string image =
      "content-type: image/png\r\nCONTENT-DISPOSITION:form-data;filename=\"a;name=x\" ;name=image";
  CHECK(parts_of(of({"--b\r\n", image, "\r\n\r\n", bytes, "\r\n--b\r\n", kText, "2\r\n--b--"})) ==
        Parts{{"image", bytes}, {"text", "2"}});
  CHECK(parts_of("--b--").empty());
  CHECK(parts_of(of({"--a;b\r\n", kText, "3\r\n--a;b--"}), "a;b") == Parts{{"text", "3"}});
}

TEST_CASE("invalid forms are refused", "[service]") {
  const std::string whole = of({"--b\r\n", kText, "a cat\r\n--b--"});
  for (std::size_t size = 0; size < whole.size(); ++size)
    CHECK(refusal_of(whole.substr(0, size)) == "bad_form");
  CHECK(refusal_of(whole).empty());
  for (const char* headers :
       {"\r\n", "Content-Type: image/png\r\n\r\n", "Content-Disposition: form-data\r\n\r\n",
        "Content-Disposition: file; name=text\r\n\r\n", "name=text\r\n\r\n"})
    CHECK(refusal_of(of({"--b\r\n", headers, "a\r\n--b--"})) == "bad_form");
  std::string many = "--b";
  for (std::size_t i = 0; i <= kMostParts; ++i) many += of({"\r\n", kText, "a\r\n--b"});
  CHECK(refusal_of(many + "--") == "bad_form");
}

TEST_CASE("forms are parsed in linear time for all headers", "[service]") {
  std::string header = "Content-Disposition: form-data; name=\"";
  for (int i = 0; i < 100'000; ++i) header += "\";filename=\"";
  for (int i = 0; i < 100'000; ++i) header += "\";filename*=";
  CHECK(parts_of(of({"--b\r\n", header, std::string(1'000'000, 'x'), " x\r\n\r\na\r\n--b--"})) ==
        Parts{{"", "a"}});
}

}  // namespace
}  // namespace conclave::service
