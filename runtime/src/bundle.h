// A bundle's folder, once all of it is known to be whole and made for this machine.
#ifndef POCKETFORMER_BUNDLE_H_
#define POCKETFORMER_BUNDLE_H_

#include <map>
#include <memory>
#include <string>

#include "files.h"
#include "manifest.h"
#include "weights.h"

namespace pocketformer {

struct Bundle {
  Manifest manifest;
  std::string level;                                  // the last that the processor can run
  std::string library;                                // the path of model.so
  std::shared_ptr<const MappedFile> weights_file;     // null where the library holds the weights
  std::map<std::string, Weight> weights;

  // Throws Error that says what is wrong. Nothing of the library is executed.
  static Bundle Load(const std::string& folder);
};

}  // namespace pocketformer

#endif  // POCKETFORMER_BUNDLE_H_
