#include "parallel/agreement.h"

#include <algorithm>

namespace fucina {
namespace {

std::string flatten(const Facts& facts) {
    std::string text;
    for (const auto& [name, value] : facts) text += name + '\0' + value + '\0';
    return text;
}

Facts unflatten(const std::string& text) {
    Facts facts;
    for (size_t at = 0; at < text.size();) {
        const size_t middle = text.find('\0', at), end = text.find('\0', middle + 1);
        facts.emplace_back(text.substr(at, middle - at), text.substr(middle + 1, end - middle - 1));
        at = end + 1;
    }
    return facts;
}

std::string value_of(const Facts& facts, const std::string& name) {
    const auto found = std::find_if(facts.begin(), facts.end(),
                                    [&](const auto& fact) { return fact.first == name; });
    return found == facts.end() ? "not set" : found->second;
}

}  // namespace

std::string first_text(Communicator& communicator, std::string text) {
    const int none = communicator.size();
    std::vector<int64_t> first{text.empty() ? -none : -communicator.rank()};
    communicator.all_reduce_max(first);
    const int speaker = static_cast<int>(-first[0]);
    if (speaker == none) return "";
    auto length = static_cast<int64_t>(text.size());
    communicator.broadcast(std::as_writable_bytes(std::span(&length, 1)), speaker);
    text.resize(static_cast<size_t>(length));
    communicator.broadcast(std::as_writable_bytes(std::span(text)), speaker);
    return text;
}

std::vector<std::string> gather_texts(Communicator& communicator, const std::string& text) {
    std::vector<int64_t> longest{static_cast<int64_t>(text.size())};
    communicator.all_reduce_max(longest);
    const auto width = static_cast<size_t>(longest[0]);
    std::string padded = text, all(width * static_cast<size_t>(communicator.size()), '\0');
    padded.resize(width, '\0');
    communicator.all_gather(std::as_bytes(std::span(padded)),
                            std::as_writable_bytes(std::span(all)));
    std::vector<std::string> texts;
    for (size_t at = 0; at < all.size(); at += width) {
        const std::string one = all.substr(at, width);
        texts.push_back(one.substr(0, one.find('\0')));
    }
    texts.resize(static_cast<size_t>(communicator.size()));  // all are empty
    return texts;
}

void agree(Communicator& communicator, const std::function<void()>& body) {
    std::string failure;  // its code, a space, its message
    try {
        body();
    } catch (...) {
        const Error error = current_error();
        const std::string who =
            communicator.rank() > 0 ? concat("rank ", communicator.rank(), ": ") : "";
        failure = concat(static_cast<int>(error.code()), " ", who, error.what());
    }
    failure = first_text(communicator, failure);
    if (failure.empty()) return;
    throw Error(static_cast<ExitCode>(std::stoi(failure)), failure.substr(failure.find(' ') + 1));
}

void require_same(Communicator& communicator, const Facts& facts, ExitCode code,
                  const std::string& otherwise) {
    const Facts theirs =
        unflatten(first_text(communicator, communicator.rank() == 0 ? flatten(facts) : ""));
    agree(communicator, [&] {
        for (const Facts* names : {&facts, &theirs}) {
            for (const auto& [name, unused] : *names) {
                const std::string here = value_of(facts, name), there = value_of(theirs, name);
                if (here != there)
                    fail(code, name, " is ", here, ", on rank 0 ", there, "; ", otherwise);
            }
        }
    });
}

}  // namespace fucina
