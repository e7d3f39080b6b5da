// Segments a photograph with a graph that was exported with `--kind segmenter`, which does all between the two.
//
//     ./segment FOLDER/model.onnx photo.jpg overlay.ppm
//
// Prints a line for each segment, separated by tabs: label, score, area, and the box's left, top, width and height in
// pixels; of a semantic model label and area. Writes the photograph with its segments in colour. EXIF is not read: turn
// photographs upright first.

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <jpeglib.h>  // needs <cstdio> before it

struct Image {
    int64_t height, width;
    std::vector<uint8_t> pixels;  // (height, width, 3), RGB
};

// A file that is no JPEG ends the program: libjpeg says why.
Image read_jpeg(const char* path) {
    FILE* file = std::fopen(path, "rb");
    if (!file) throw std::runtime_error(std::string("cannot open ") + path);
    jpeg_error_mgr errors;
    jpeg_decompress_struct jpeg;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&jpeg);
    jpeg_stdio_src(&jpeg, file);
    jpeg_read_header(&jpeg, TRUE);
    jpeg.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg);
    const size_t stride = size_t(jpeg.output_width) * 3;
    Image image{jpeg.output_height, jpeg.output_width, std::vector<uint8_t>(jpeg.output_height * stride)};
    while (jpeg.output_scanline < jpeg.output_height) {
        uint8_t* row = image.pixels.data() + jpeg.output_scanline * stride;
        jpeg_read_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_decompress(&jpeg);
    jpeg_destroy_decompress(&jpeg);
    std::fclose(file);
    return image;
}

// Returns the names of the classes, which an exported graph holds in its metadata, one a line.
std::vector<std::string> read_labels(Ort::Session& session) {
    Ort::AllocatorWithDefaultOptions allocator;
    auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated("labels", allocator);
    if (!text) throw std::runtime_error("the graph holds no \"labels\": is it exported with --kind segmenter?");
    std::istringstream lines(text.get());
    std::vector<std::string> labels;
    for (std::string line; std::getline(lines, line);) labels.push_back(line);
    return labels;
}

// Returns the graph's outputs by name.
std::map<std::string, Ort::Value> run(Ort::Session& session, Image& image) {
    const int64_t shape[] = {image.height, image.width, 3};
    auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
    auto input = Ort::Value::CreateTensor(memory, image.pixels.data(), image.pixels.size(), shape, 3);
    Ort::AllocatorWithDefaultOptions allocator;
    const char* input_name = "image";
    std::map<std::string, Ort::Value> outputs;
    std::vector<Ort::AllocatedStringPtr> names;
    std::vector<const char*> output_names;
    for (size_t i = 0; i < session.GetOutputCount(); ++i) {
        names.push_back(session.GetOutputNameAllocated(i, allocator));
        output_names.push_back(names.back().get());
    }
    auto values = session.Run(Ort::RunOptions(), &input_name, &input, 1, output_names.data(), output_names.size());
    for (size_t i = 0; i < values.size(); ++i) outputs.emplace(output_names[i], std::move(values[i]));
    return outputs;
}

// Returns for each pixel the number of its segment (the class in semantic segmentation), -1 for none. Of instances
// that overlap the best counts, which is the first.
std::vector<int32_t> number_pixels(const std::map<std::string, Ort::Value>& outputs, size_t num_pixels) {
    if (outputs.count("segmentation")) {
        const int32_t* numbers = outputs.at("segmentation").GetTensorData<int32_t>();
        return {numbers, numbers + num_pixels};
    }
    std::vector<int32_t> numbers(num_pixels, -1);
    const auto& masks = outputs.at("masks");
    for (int64_t segment = masks.GetTensorTypeAndShapeInfo().GetShape()[0] - 1; segment >= 0; --segment) {
        const bool* mask = masks.GetTensorData<bool>() + size_t(segment) * num_pixels;
        for (size_t pixel = 0; pixel < num_pixels; ++pixel)
            if (mask[pixel]) numbers[pixel] = int32_t(segment);
    }
    return numbers;
}

void print_segments(const std::map<std::string, Ort::Value>& outputs, const std::vector<std::string>& labels) {
    const auto& classes = outputs.at("labels");
    const int64_t* areas = outputs.at("areas").GetTensorData<int64_t>();
    const int64_t* box = outputs.at("boxes").GetTensorData<int64_t>();
    for (size_t i = 0; i < classes.GetTensorTypeAndShapeInfo().GetElementCount(); ++i, box += 4)
        std::cout << labels.at(size_t(classes.GetTensorData<int64_t>()[i])) << '\t'
                  << outputs.at("scores").GetTensorData<float>()[i] << '\t' << areas[i] << '\t' << box[0] << '\t'
                  << box[1] << '\t' << box[2] << '\t' << box[3] << '\n';
}

// Prints the area of each class that is there.
void print_classes(const std::vector<int32_t>& numbers, const std::vector<std::string>& labels) {
    std::map<int32_t, size_t> areas;
    for (int32_t number : numbers)
        if (number >= 0) ++areas[number];
    for (const auto& [number, area] : areas) std::cout << labels.at(size_t(number)) << '\t' << area << '\n';
}

// Writes a PPM file: the image, each segment mixed half and half with a colour.
void write_overlay(const char* path, Image image, const std::vector<int32_t>& numbers) {
    for (size_t pixel = 0; pixel < numbers.size(); ++pixel)
        if (numbers[pixel] >= 0)
            for (int channel = 0; channel < 3; ++channel) {
                const int colour = (numbers[pixel] * 158 + channel * 85) % 256;
                image.pixels[3 * pixel + channel] = uint8_t((image.pixels[3 * pixel + channel] + colour) / 2);
            }
    std::ofstream file(path, std::ios::binary);
    file << "P6\n" << image.width << ' ' << image.height << "\n255\n";
    file.write(reinterpret_cast<const char*>(image.pixels.data()), std::streamsize(image.pixels.size()));
    if (!file.flush()) throw std::runtime_error(std::string("cannot write ") + path);
}

int main(int argc, char** argv) try {
    if (argc != 4) throw std::runtime_error("usage: segment MODEL.onnx PHOTO.jpg OVERLAY.ppm");
    Ort::Env env;
    Ort::Session session(env, argv[1], Ort::SessionOptions());
    const auto labels = read_labels(session);
    Image image = read_jpeg(argv[2]);
    const auto outputs = run(session, image);
    const auto numbers = number_pixels(outputs, size_t(image.height * image.width));
    outputs.count("labels") ? print_segments(outputs, labels) : print_classes(numbers, labels);
    write_overlay(argv[3], std::move(image), numbers);
} catch (const std::exception& error) {
    std::cerr << "segment: " << error.what() << '\n';
    return 1;
}
