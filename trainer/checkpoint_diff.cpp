#include "trainer/checkpoint_diff.h"

#include <google/protobuf/util/message_differencer.h>

#include <cmath>
#include <cstring>
#include <sstream>

#include "kernels/error.h"
#include "kernels/tensor.h"
#include "trainer/manifest.h"

namespace fucina {
namespace {

constexpr int64_t kElements = int64_t{1} << 20;  // compared at a time

std::string describe(const SavedTensor& tensor) {
    return concat(tensor.dtype(), " ", shape_text(shape_of(tensor)));
}

TensorDiff compare(const CheckpointReader& a, const SavedTensor& in_a, const CheckpointReader& b,
                   const SavedTensor& in_b) {
    TensorDiff diff{in_a.kind(), in_a.name(), {}};
    if (describe(in_a) != describe(in_b)) {
        diff.apart = concat(describe(in_a), " against ", describe(in_b));
        return diff;
    }
    a.check(in_a);
    b.check(in_b);
    const std::vector<int64_t> shape = shape_of(in_a);
    std::vector<float> x, y;
    double differences = 0, norm = 0;
    diff.elements = whole_box(shape).size();
    for_each_box(shape, 0, diff.elements, kElements, [&](const Box& box, int64_t) {
        for (std::vector<float>* values : {&x, &y}) values->resize(static_cast<size_t>(box.size()));
        a.read(in_a, box, std::span(x));
        b.read(in_b, box, std::span(y));
        for (size_t i = 0; i < x.size(); ++i) {
            norm += double{x[i]} * x[i];
            if (std::memcmp(&x[i], &y[i], sizeof(float)) == 0) continue;
            const double difference = std::abs(double{x[i]} - y[i]);
            ++diff.differing;
            differences += difference * difference;
            if (!(difference <= diff.largest)) diff.largest = difference;  // NaN stays
        }
    });
    diff.relative = std::sqrt(differences / norm);
    return diff;
}

template <class T>
void compare_numbers(const char* what, const T& a, const T& b, std::vector<std::string>& lines) {
    if (a != b) lines.push_back(concat(what, ": ", a, " against ", b));
}

std::vector<std::string> other_differences(const Manifest& a, const Manifest& b) {
    std::vector<std::string> lines;
    compare_numbers("step", a.step(), b.step(), lines);
    compare_numbers("updates", a.updates(), b.updates(), lines);
    compare_numbers("next sample", a.next_sample(), b.next_sample(), lines);
    compare_numbers("hash of the model's configuration", a.model_hash(), b.model_hash(), lines);
    compare_numbers("hash of the tokenizer", a.tokenizer_hash(), b.tokenizer_hash(), lines);
    google::protobuf::util::MessageDifferencer differencer;
    std::string report;
    differencer.ReportDifferencesToString(&report);
    differencer.Compare(a.recipe(), b.recipe());
    std::istringstream text(report);
    for (std::string line; std::getline(text, line);) lines.push_back("recipe " + line);
    return lines;
}

}  // namespace

CheckpointDiff diff_checkpoints(const CheckpointReader& a, const CheckpointReader& b) {
    CheckpointDiff all;
    for (const SavedTensor& tensor : a.manifest().tensors()) {
        const SavedTensor* other = b.find(tensor.kind(), tensor.name());
        if (other == nullptr) {
            all.tensors.push_back({tensor.kind(), tensor.name(), "only in the first"});
            continue;
        }
        TensorDiff diff = compare(a, tensor, b, *other);
        if (diff.apart.empty() && diff.differing == 0)
            ++all.equal;
        else
            all.tensors.push_back(std::move(diff));
    }
    for (const SavedTensor& tensor : b.manifest().tensors())
        if (a.find(tensor.kind(), tensor.name()) == nullptr)
            all.tensors.push_back({tensor.kind(), tensor.name(), "only in the second"});
    all.other = other_differences(a.manifest(), b.manifest());
    return all;
}

}  // namespace fucina
