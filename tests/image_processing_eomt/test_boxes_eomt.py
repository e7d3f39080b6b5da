import torch

from image_processing_eomt.boxes_eomt import Occupancy, bounding_box


def test_areas_and_boxes_of_a_map_in_bands():
    regions = torch.randint(0, 4, (13, 17))
    regions[regions == 2] = 0  # a region without a pixel
    occupancy = Occupancy(4, (13, 17), regions.device)
    for rows in (slice(0, 5), slice(5, 6), slice(6, 13)):
        occupancy.add(rows, regions[rows])
    compare(occupancy, [regions == region for region in range(4)])


def test_areas_and_boxes_of_masks_that_overlap_in_bands():
    masks = torch.rand(5, 13, 17) > 0.97
    masks[3] = False
    occupancy = Occupancy(5, (13, 17), masks.device)
    for rows in (slice(0, 5), slice(5, 13)):
        occupancy.add_masks(rows, masks[:, rows])
    compare(occupancy, masks)


def compare(occupancy, masks):
    areas, *edges = occupancy.areas_and_edges()
    for mask, area, box in zip(masks, areas.tolist(), torch.stack(edges, dim=1).tolist(), strict=True):
        y, x = torch.nonzero(mask, as_tuple=True)
        assert area == len(y)
        if area:
            left, top = x.min().item(), y.min().item()
            assert bounding_box([box]) == [left, top, x.max().item() - left + 1, y.max().item() - top + 1]
        else:
            assert bounding_box([box]) == [0, 0, 0, 0]


def test_a_box_around_several_regions():
    assert bounding_box([[2, 3, 4, 5], [0, 4, 1, 9]]) == [0, 3, 5, 7]
