// Finding and loading checkpoints, from the manifest alone: libhdf5 takes no part but in verify.
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <map>

#include "data/file.h"
#include "data/run_on_threads.h"
#include "kernels/error.h"
#include "kernels/runtime.h"
#include "parallel/box_copy.h"
#include "trainer/checkpoint.h"
#include "trainer/checkpoint_reader.h"
#include "trainer/manifest.h"
#include "trainer/shard_file.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-";

bool is_checkpoint_name(const std::string& name) {
    return name.size() > kPrefix.size() && name.starts_with(kPrefix) &&
           name.find_first_not_of("0123456789", kPrefix.size()) == std::string::npos;
}

// Bytes of one box, as they lie in the file, with their checksum compared.
void read_box(const InputFile& file, const SavedTensor& tensor, const SavedBox& box,
              std::span<std::byte> into) {
    file.read(box.byte_offset(), into);
    check_box_hash(file.path(), tensor, box, XXH3_64bits(into.data(), into.size()));
}

// A box that lies as one run in what is wanted is read in place.
void load_box(const InputFile& file, const SavedTensor& saved, const SavedBox& saved_box,
              const NamedTensor& wanted) {
    const Box box = box_in(saved_box), part = wanted.box();
    const int64_t element = size_of(wanted.tensor.dtype());
    const bool inside = wanted.exec.on_host() && intersection(box, part) == box;
    int64_t runs = 0, at = 0;
    if (inside) {
        Box local = box;
        for (size_t d = 0; d < box.offset.size(); ++d) local.offset[d] -= part.offset[d];
        for_each_run(part.extent, local, [&](int64_t first, int64_t, int64_t) {
            if (runs++ == 0) at = first;
        });
    }
    const auto bytes = static_cast<size_t>(saved_box.nbytes());
    if (runs == 1) {
        read_box(file, saved, saved_box,
                 wanted.tensor.memory().subspan(static_cast<size_t>(at * element), bytes));
        return;
    }
    const Tensor scratch = Tensor::empty({box.size()}, wanted.tensor.dtype());
    read_box(file, saved, saved_box, scratch.memory());
    copy_shared(wanted.exec, box, scratch, part, wanted.tensor);
}

struct Job {
    const SavedTensor* saved;
    const SavedBox* box;
    const NamedTensor* wanted;
};

// What is no damage goes first: a checkpoint is called damaged only where all else could be read.
void run_jobs(const std::vector<InputFile>& files, const std::vector<Job>& jobs) {
    std::vector<std::exception_ptr> damage(jobs.size());
    run_on_threads(static_cast<int64_t>(jobs.size()), runtime().threads, [&](int64_t i) {
        const auto at = static_cast<size_t>(i);
        const Job& job = jobs[at];
        try {
            load_box(files[job.box->file()], *job.saved, *job.box, *job.wanted);
        } catch (const DamagedFile&) {
            damage[at] = std::current_exception();
        }
    });
    for (const std::exception_ptr& first : damage) {
        if (first) std::rethrow_exception(first);
    }
}

std::vector<InputFile> open_shards(const fs::path& dir, const Manifest& manifest) {
    std::vector<InputFile> files;
    for (const SavedFile& file : manifest.files()) files.emplace_back(dir / file.name());
    return files;
}

// Every tensor's boxes; fails unless each is there with its shape and dtype.
std::vector<Job> match(const fs::path& dir, const Manifest& manifest,
                       std::span<const NamedTensor> tensors) {
    std::map<std::pair<std::string, std::string>, const SavedTensor*> by_name;
    for (const SavedTensor& saved : manifest.tensors())
        by_name[{saved.kind(), saved.name()}] = &saved;
    std::vector<Job> jobs;
    for (const NamedTensor& named : tensors) {
        const auto found = by_name.find({named.kind, named.name});
        if (found == by_name.end()) {
            fail(ExitCode::data, dir.string(), ": has no ", named.kind, " ", named.name,
                 "; was it written by another version of this program?");
        }
        const SavedTensor& saved = *found->second;
        const Tensor& tensor = named.tensor;
        if (saved_dtype(saved) != tensor.dtype() ||
            !std::ranges::equal(saved.shape(), named.shape())) {
            fail(ExitCode::data, dir.string(), ": ", named.kind, " ", named.name, " is ",
                 saved.dtype(), " ", shape_text(shape_of(saved)), ", the model's is ",
                 name_of(tensor.dtype()), " ", shape_text(named.shape()));
        }
        FUCINA_CHECK(tensor.contiguous(), named.name, " is not contiguous");
        const Box part = named.box();
        for (const SavedBox& box : saved.boxes())
            if (intersection(box_in(box), part)) jobs.push_back({&saved, &box, &named});
    }
    return jobs;
}

}  // namespace

fs::path checkpoint_directory(const fs::path& run_dir, int64_t step) {
    return run_dir / "checkpoints" / fmt::format("{}{:08d}", kPrefix, step);
}

std::vector<fs::path> list_checkpoints(const fs::path& run_dir) {
    std::vector<fs::path> found;
    std::error_code error;
    const fs::path parent = run_dir / "checkpoints";
    // A list cut short would pass for a run without checkpoints.
    for (fs::directory_iterator entry(parent, error), end; !error && entry != end;
         entry.increment(error)) {
        std::error_code ignored;
        if (is_checkpoint_name(entry->path().filename().string()) && entry->is_directory(ignored)) {
            found.push_back(entry->path());
        }
    }
    if (error && error != std::errc::no_such_file_or_directory) {
        fail(read_failure(error.value()), parent.string(), ": cannot list: ", error.message());
    }
    // Longer numbers are larger ones.
    const auto key = [](const fs::path& path) {
        const std::string name = path.filename().string();
        return std::pair(name.size(), name);
    };
    std::sort(found.begin(), found.end(),
              [&](const fs::path& a, const fs::path& b) { return key(a) > key(b); });
    return found;
}

void remove_leftovers(const fs::path& run_dir) {
    std::vector<fs::path> leftovers;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(run_dir / "checkpoints", none)) {
        const std::string name = entry.path().filename().string();
        if (name.starts_with(kPrefix) && (name.find(".tmp-") != std::string::npos ||
                                          name.find(".trash-") != std::string::npos)) {
            leftovers.push_back(entry.path());
        }
    }
    for (const fs::path& path : leftovers) fs::remove_all(path, none);
}

fs::path find_checkpoint(const fs::path& path, const DamageReport& damaged,
                         std::span<const fs::path> known) {
    std::error_code ignored;
    if (fs::exists(path / kManifestName, ignored)) {
        read_manifest(path);
        return path;
    }
    for (const fs::path& dir : list_checkpoints(path)) {
        if (std::find(known.begin(), known.end(), dir) != known.end()) continue;
        try {
            read_manifest(dir);
            return dir;
        } catch (const DamagedFile& error) {
            damaged(dir, error.what());
        }
    }
    fail(ExitCode::no_checkpoint, path.string(), ": no valid checkpoint in it");
}

fs::path set_aside(const fs::path& dir) {
    fs::path aside = dir.string() + ".damaged";
    for (int n = 2; fs::exists(fs::symlink_status(aside)); ++n) {
        aside = fmt::format("{}.damaged-{}", dir.string(), n);
    }
    rename_path(dir, aside);
    sync_directory(dir.parent_path());
    return aside;
}

void load_tensors(const fs::path& dir, const Manifest& manifest,
                  std::span<const NamedTensor> tensors) {
    const std::vector<Job> jobs = match(dir, manifest, tensors);
    run_jobs(open_shards(dir, manifest), jobs);
}

void verify_checkpoint(const fs::path& dir) {
    const CheckpointReader reader(dir);
    const Manifest& manifest = reader.manifest();
    for (const SavedTensor& tensor : manifest.tensors()) reader.check(tensor);
    for (int f = 0; f < manifest.files_size(); ++f) {
        const SavedFile& file = manifest.files(f);
        const InputFile opened(dir / file.name());
        if (file.has_frame_xxh3() && frame_hash(opened, manifest, f) != file.frame_xxh3())
            fail_damaged(opened.path().string(),
                         ": checksum of HDF5's own bytes differs: the file is damaged, "
                         "its tensors are not");
        cross_check_shard(dir, manifest, f);
    }
}

}  // namespace fucina
